"""Formats of request traces, a file each: ``tables`` opens the file, a format says what its columns mean.

What all keep is ``base.TraceFormat``; ``shunter.envs.workload.trace_formats`` lists them.
"""
