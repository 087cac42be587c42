"""What operators see and ask for: the control interface, metrics, rates."""
