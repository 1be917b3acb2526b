"""Our own rules, and other people's: a Twisted plugin package.

A third party's file `mailhub/plugins/x.py` on any entry of the path belongs to this package, as long as no
`__init__.py` stands beside it: this one is the only one.  Our rules import `mailhub.plugin` alone, as everybody's do.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))  # type: ignore[no-untyped-call]
