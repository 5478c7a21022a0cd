"""A run as one HTML page that stands alone: no other file, no network.

Each module turns one part of the document into charts, tables and sentences (`chart.Chart`); `page` puts them into
`template.html.j2` with `style.css` and `script.js`. Charts are made here, by plotly, as data; the script draws them.
"""

from sca_deploy.report.page.page import render, write_page

__all__ = ["render", "write_page"]
