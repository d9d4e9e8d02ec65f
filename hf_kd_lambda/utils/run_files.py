"""Names of the files in a run's folder, apart from the student itself, and who writes them."""

CARD = "README.md"  # a job, and the trainer's `create_model_card`
FIGURE = "lambda.png"  # the same; the card links it
RESULTS = "results.json"  # a job; `export` adds its table
REPORT = "report.html"  # a job
QUALITY_FILE = "label_quality.parquet"  # a job that estimates label_quality
ONNX, ONNX_INT8 = "model.onnx", "model_int8.onnx"  # `export`
