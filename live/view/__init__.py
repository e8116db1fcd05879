"""`./hardway view`: a page about a running lab, live, on 127.0.0.1. It changes nothing; docs/view.md.

`machines` and `api` follow the lab in threads, `now` is what they know at one moment, `events` what changed between two
moments, `tiles` the large lines at the top, `page` the HTML, `server` the page's server, `run` the command.
"""
