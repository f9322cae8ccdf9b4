"""What a site computes from rows. Before anything here loads torch, its library is told to compute alike.

MKL, which multiplies torch's matrices on x86, adds a row's numbers in an order that depends on where in
memory the row lies, so that a row more or less in front of it changes its last bits
(`clients.mechanisms.blocks`). In its strict mode of reproducible results it does not. It reads the variable
once, at its first call. cuBLAS, which does the same on a CUDA device, computes alike in every call only if
its workspace has one size (`clients.mechanisms.devices`).
"""

import os

os.environ["MKL_CBWR"] = os.environ.get("MKL_CBWR") or "AUTO,STRICT"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
