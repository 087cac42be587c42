"""From a socket to an acknowledgement: connections, requests, admission, large bodies."""
