"""What other tools measured, read from their files: llama-bench, vLLM bench, AIPerf and GuideLLM.

A reader turns a file into ``measurement.Measurement``s, which say what the file says and nothing more;
``read`` finds out which reader it is for.
"""
