"""Launch configurations of engines, one module per engine; what they share lies beside them."""
