"""The machine as a graph: typed view, builders, groups of chips, prices of collectives.

Decisions
---------
* Everything that planning needs (domains, cells, group shapes, prices) is computed from
  the machine's facts in closed form; the graph itself is built only on request, because
  importing networkx costs more than a whole price list.
* The closed forms are not trusted: ``loads`` routes the same traffic over the graph and
  the tests demand the same busiest link.
"""
