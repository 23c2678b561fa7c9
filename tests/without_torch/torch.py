"""Stands for PyTorch in commands that do not need it: tensorboardX imports it where it is there.

That import takes longer than all others of a training command together.
"""

raise ImportError("PyTorch is left out of this process")
