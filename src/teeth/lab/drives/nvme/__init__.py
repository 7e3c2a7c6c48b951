"""An NVMe drive: one subsystem with one controller and its namespaces (NVMe base 2.0, NVM command set 1.0).

`controller` is the model, sans-IO; `target` and what it is made of put it behind NVMe/TCP.
"""

from teeth.lab.drives.nvme.controller import NoCompletionError, NvmeController
from teeth.lab.drives.nvme.spec import NamespaceSpec, NvmeSpec

__all__ = ["NamespaceSpec", "NoCompletionError", "NvmeController", "NvmeSpec"]
