"""Toxiproxy's HTTP API over zebra's fault proxy: what drives a Toxiproxy server drives this one.

`wire` reads JSON as leniently as the original, `kinds` are the toxics, `proxies` what they are on, `datagrams` the same
for UDP, `api` the paths, `http` the connections of clients, `server` the process.
"""
