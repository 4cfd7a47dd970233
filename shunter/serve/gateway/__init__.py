"""The core's shell on one asyncio loop: requests come in, servers are started and ended, all is written down.

``gateway`` carries out what the core wants; ``admission`` lets a request in or says why not, and ``ticket``
is then its handle; ``fleet`` has the servers, ``launches`` what each is started with; ``follower`` looks for
a new champion; ``record`` writes what happened and ``showing`` tells the page.
"""
