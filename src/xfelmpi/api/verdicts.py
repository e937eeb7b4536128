"""The answers of the run report."""

from xfelmpi.report.verdicts import Answer


class Verdicts(dict[str, Answer]):
    """Answers by subject; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import table

        rows = [
            ("", "", "", "why"),
            *((a.question, a.state, a.short, a.why) for a in self.values()),
        ]
        return table(rows)
