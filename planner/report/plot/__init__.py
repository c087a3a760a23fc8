"""Charts of the studies: as PNG and SVG by matplotlib, in the terminal by plotext.

Decisions
---------
- A chart is data (:mod:`planner.report.plot.chart`); neither library is known outside of its own
  module, and both are imported when something is drawn.
- The same chart gives the same bytes: no dates, no random identifiers.
"""
