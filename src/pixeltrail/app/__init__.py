"""The web page's server: a client of the library, as the command line is. It holds no model code.

`workspace` is what is kept on disk, `frames` what is shown, `tracking` the jobs, `features` what the page asks of the
encoder, `security` who may ask at all, and `server` the routes.
"""
