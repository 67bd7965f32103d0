"""The report: self-contained pages, and the figures as files, rendered from the records alone.

    python -m benchmarks.report

``gather`` turns records into rows for charts, ``charts`` turns rows into Vega-Lite, ``answers`` are the sentences of
the first screen, ``board_view`` and ``sections`` what stands on the page about a network, ``methods`` describes the
methods, ``page`` puts it all on pages that need no network: the report, the theories, the methods and the papers.
"""
