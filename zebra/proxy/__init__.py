"""The core of the fault proxy: links of chunks, and toxics that change while connections last.

`toxics` is what can happen to data, `connections` what can happen to these, `link` one direction of a connection,
`ends` its two sockets, `proxy` joins them.
"""
