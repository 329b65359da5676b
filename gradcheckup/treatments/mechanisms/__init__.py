"""What treated models and optimizers carry: ways around layers, heads, hooks, stages, clipping."""
