"""A store in, a live page out: the web board over the embedded store.

`text`, `rows`, `charts` and `panels` are pure (points in, what a page shows out); `feed` reads the store
once a second for all viewers; `page` holds the NiceGUI elements; `server` serves them in the running loop.
"""
