"""The processes of Lantern: gateway, worker, the stack that runs them, the command line."""
