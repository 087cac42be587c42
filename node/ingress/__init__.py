"""From a socket to an acknowledgement: connections, requests, who may come in, large bodies."""
