"""For operators: the control interface, metrics, rates."""
