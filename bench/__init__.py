"""The benchmarks: mailhub and Debian's Postfix, in turn, with the same work on the same disk."""
