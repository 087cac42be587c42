"""The declarations of an application: its functions, its timers, its hooks, and what their results mean."""
