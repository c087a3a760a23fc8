"""Machine files from what operators have: matrices, topology files, graphs.

Decisions
---------
- ``source`` reads a file within limits and tells its format; ``topo_matrix``, ``nccl_xml``
  and ``graph_files`` parse one format each into records, ``topo_wiring`` and
  ``nccl_wiring`` turn them into nodes and links; ``wiring`` collects these and knows how
  NICs attach; ``reference`` is the named machine that lends what no format carries;
  ``imported`` puts the machine file together, ``write_toml`` writes it.
- No number is invented. A rate is in the file or comes from the named machine; whatever is
  assumed about the wiring or left out is a note, and every note is also a comment in the
  written file.
- NVLinks are priced at the nameplate rate of the named machine. NCCL's own 20.6 or
  40.1 GB/s per link are achieved rates, and the achieved curves count from the nameplate:
  using both would derate twice.
- XML is read with the expat parser of the standard library, which stops at a document type
  before any entity can be declared, and which knows the line of every element.
"""

from planner.catalog.imports.imported import FORMATS, ImportedMachine, import_machine

__all__ = ["FORMATS", "ImportedMachine", "import_machine"]
