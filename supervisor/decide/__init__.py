"""The decision about a request. Pure: the same snapshot, peer, request and state give the same answer."""
