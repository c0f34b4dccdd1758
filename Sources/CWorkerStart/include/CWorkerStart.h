// Nothing is called here: linking the target is what the worker wants of it. See CWorkerStart.c.
