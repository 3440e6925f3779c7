"""TorchServe's side: one thin handler, its archives and how TorchServe is started."""
