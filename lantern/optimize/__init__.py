"""Making pictures by optimisation: objectives, regularisers and the one loop."""
