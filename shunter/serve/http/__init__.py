"""What clients of the gateway see: an OpenAI-compatible server that passes requests on, and a page.

``app`` makes the application of a scheduler; ``listen`` binds it; ``relay`` passes one request on to a server
and its answer back; ``intake`` holds bodies within bounds, ``body`` and ``tally`` read no more of requests
and answers than scheduling needs; ``access`` says who may ask; ``views`` are what operators look at.
"""
