"""The report: one self-contained HTML page, and the figures as files, rendered from the records and nothing else.

    python -m benchmarks.report

``gather`` turns records into rows for charts, ``charts`` turns rows into Vega-Lite, ``methods`` describes the methods,
``page`` puts it all on one page that needs no network.
"""
