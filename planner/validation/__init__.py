"""Predictions against measurements: rows are run as they were made, without any search.

Decisions
---------
* A row that the cost model cannot represent is reported with its reason, never dropped in
  silence; any error but a refusal is a bug of ours and ends the run naming the row.
* Constants may be calibrated only on rows that are not scored. Which ones is a rule, not a
  choice: :func:`planner.validation.calibration.is_calibration_id`.
* Errors are relative to the measurement; the bias is the median of ln(predicted / measured),
  in which twice too slow and twice too fast weigh the same.
"""
