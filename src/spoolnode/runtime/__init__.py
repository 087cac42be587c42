"""The application in a worker process: it is loaded, and each task finds its callable."""
