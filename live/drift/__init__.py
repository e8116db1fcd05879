"""`./hardway drift`: what the machines and the API have, compared with what the state says. It changes nothing.

Pulumi's command provider reads nothing back: a file that was edited on a machine is in no preview. The truth is the
state alone: the inputs of the steps as they ran last (recorded.py), whatever the program says by now.
"""
