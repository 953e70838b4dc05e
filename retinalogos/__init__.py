"""Text-driven synthesis of colour fundus photographs, reproducible and measured."""
import os

__version__ = "0.0.1"

# read when torch is loaded: threads that spin while they wait are ten times slower beside other work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
