"""What machines are made of: one folder for each substrate, all of them behind `components.substrate.Substrate`.

The programs in the folders import this, some of them by the Python of a host: nothing here imports anything else.
"""
