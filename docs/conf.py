"""Sphinx configuration of the site. The pages themselves are prepared by docs/build.py into _docs/."""
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "RetinaLogos"
author = "The RetinaLogos developers"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

nb_execution_mode = "off"  # stored outputs; results pages were run by build.py
nb_render_markdown_format = "myst"  # what cells print is read as prose is: tables, links
nb_ipywidgets_js = {}  # nothing is fetched by a page
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

default_role = "code"  # `name` in docstrings, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_google_docstring = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
}
html_context = {"default_mode": "auto"}  # light or dark as the browser says
html_sidebars = {"index": []}
pygments_style = "tango"


def _mathml(translator, node, display):
    translator.body.append(str(tex2mathml(node.astext(), as_block=display)))
    raise nodes.SkipNode


def _shapes(app, what, name, obj, options, lines):
    lines[:] = [line.replace("[*,", r"[\*,") for line in lines]


def setup(app):
    """Formulas as MathML, which browsers draw by themselves: the site works without a network. `[*, D]` is a shape, no emphasis."""
    app.connect("autodoc-process-docstring", _shapes)
    app.add_html_math_renderer("mathml", inline_renderers=(lambda s, n: _mathml(s, n, False), None),
                               block_renderers=(lambda s, n: _mathml(s, n, True), None))
