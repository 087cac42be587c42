"""Bridges to libraries that watch an application, each of them an extra of the package."""
