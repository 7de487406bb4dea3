#!/usr/bin/env python3
"""Counts unidiomatic phrases per 10,000 words in comments, documents and messages. A measurement, not a test.

    prose-count.py [--list] [PATH…]     PATH: files or folders (default: the repository); --list prints each match.
"""
import re
import subprocess
import sys
from collections import Counter

SENTENCE = r"(?:^|(?<=[.!?:;|] )|(?<=\n))"
PATTERNS = {
    "begins What": SENTENCE + r"What (?!does\b|is the\b.*\?|happens\b.*\?|to\b|shows\b.*\?)[^?]*?(?=[.!|\n]|$)",
    "begins Who/Whoever": SENTENCE + r"(?:Who|Whoever|Whom|Whose) (?!is .*\?)[^?]*?(?=[.!|\n]|$)",
    "what is/was/has/it/they": r"(?<=[a-z,:] )what (?:is|was|were|are|has|have|had|it|they|he|she|we|somebody|others|another|there|people)\b",
    "is to be/have/do": r"\b(?:is|are|was|were) to (?:be|have|say|go|do|run|stay|come|get|stop|announce|become|wait)\b",
    "no more/any more": r"\b(?:no more(?! than)|any more|anymore)\b",
    "none as noun": r"(?:\b(?:is|are|there is|has|have|to|of) none\b|; none\b|^none\b)",
    "is told/tells": r"\b(?:is|are|was|were|be|been) told\b|\btells?\b(?= (?:of|about|it|them|what|which|how|whether|that|its|who))",
    "is had/comes about/in vain": r"\b(?:is|are|be|was) had\b|\bcomes? about\b|\bbrought about\b|\bin vain\b",
    "anew/meanwhile": r"\banew\b|\bmeanwhile\b",
    "metaphors": r"\b(?:strangers?|blames?|blamed|witness(?:es)?|seats?|deput(?:y|ies)|councils?|opinions?)\b",
    "whoever/nobody but": r"\bwhoever\b|\bnobody\b(?= (?:but|who|that|else))",
    "all the same/the whole of": r"\ball the same\b|\bthe whole of\b|\bin the way that\b",
}
SUFFIXES = (".rs", ".md", ".sh", ".yaml", ".toml", ".go", "Makefile", ".tpl")
GENERATED = re.compile(r"/corpus/|snapshots/|crd\.yaml$|^crds/(lb|metallb)|^olm/(bundle|catalog)")


def prose(path, text):
    """Returns documents, comments and messages of a file."""
    if path.endswith(".md"):
        return {"documents": re.sub(r"```.*?```", "\n", text, flags=re.S)}
    marker = r"^\s*//[/!]?\s?(.*)$" if path.endswith(".rs") else r"(?:^|\s)#\s(.*)$"
    comments = re.sub(r"(?<=[^\n.|:;!?])\n(?=\S)", " ", "\n".join(re.findall(marker, text, re.M)))
    if not path.endswith(".rs") or "/tests/" in path:
        return {"comments": comments}
    code = "\n".join(line for line in text.split("\n") if not line.strip().startswith("//"))
    strings = (re.sub(r"\\\n\s*", "", s) for s in re.findall(r'"((?:[^"\\\n]|\\.|\\\n\s*)*)"', code))
    return {"comments": comments, "messages": "\n".join(s for s in strings if s.count(" ") >= 2)}


paths = [argument for argument in sys.argv[1:] if argument != "--list"]
hits, words = Counter(), Counter()
for path in subprocess.run(["git", "ls-files", "--", *(paths or ["."])], capture_output=True, text=True).stdout.split("\n"):
    if path.endswith(SUFFIXES) and not GENERATED.search(path):  # Python is not counted, so this file is not either.
        for kind, text in prose(path, open(path, encoding="utf-8", errors="replace").read()).items():
            words[kind] += len(text.split())
            for name, pattern in PATTERNS.items():
                for match in re.finditer(pattern, text, re.M):
                    hits[name, kind] += 1
                    if "--list" in sys.argv:
                        print(f"{path}: {name}: {text[max(0, match.start() - 20):match.end() + 30]!r}")
kinds = ("comments", "documents", "messages")
print(f"{'per 10,000 words':30}" + "".join(f"{kind:>12}" for kind in kinds))
for name in [*PATTERNS, "all"]:
    counts = [sum(n for (p, k), n in hits.items() if k == kind and name in (p, "all")) for kind in kinds]
    print(f"{name:30}" + "".join(f"{n * 1e4 / max(1, words[kind]):12.1f}" for n, kind in zip(counts, kinds)))
print(f"{'words':30}" + "".join(f"{words[kind]:12}" for kind in kinds))
