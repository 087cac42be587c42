"""The look-alikes of uWSGI's Python modules, for unmodified applications: `import uwsgi`, `import uwsgidecorators`."""
