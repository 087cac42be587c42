"""Running a task: the workers as the node sees them, and what happens inside one."""
