"""The service: a coordinator that performs runs on labelled workers, the workers, and what HTTP shows of both.

It joins the history, workflows and the fleet; it knows no command line.
"""
