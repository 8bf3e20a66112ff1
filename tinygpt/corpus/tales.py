"""The built-in corpus: small children's stories from a grammar with a memory. Standard library only.

    story, corpus            draw stories; the same seed gives the same bytes everywhere
    text, write              a corpus as bytes, and as a file
    parse, score             recover the choices behind a text: is it grammatical, is it consistent, what did it cost
    floor_bits_per_byte      the entropy of stories: no model can predict them with fewer bits on average

One grammar (tales_lexicon.py), two walkers. Both go through the story's symbols from left to right. `_draw` makes
each choice with a random number; `_walk` makes every choice that the text allows, so it finds all derivations of the
text. A story remembers its facts (who the hero is, which colour the kite has) from their first mention, and that is
what makes it consistent over long distances. Since every story has exactly one derivation,

    -log2 P(story) = sum over its choices of -log2 P(choice)

is the exact information in a story, in bits: the entropy that a perfect model would still be surprised by.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tinygpt.corpus import tales_lexicon as lexicon
from tinygpt.storage import write_atomic

SEPARATOR = "\n\n\n"
"""Between two documents of a .txt corpus: two empty lines. A story itself has at most one empty line in a row."""

MAX_STEPS = 100_000
"""Symbols that the parser looks at before it gives up (a story takes one or two thousand): no input can hang it."""


_LONGEST_SYMBOL = 200  # characters; every literal and word of the lexicon is shorter


@dataclass(frozen=True)
class Tale:
    """One drawn story: its text, its information `bits` = -log2 P(text), and the name of its plot."""

    text: str
    bits: float
    plot: str


@dataclass(frozen=True)
class Verdict:
    """What `parse` found out about a text.

    grammatical: every sentence comes from the grammar, in the order of a story, with words of the right kinds.
    consistent: moreover all facts agree; then, and only then, P(text) > 0 and `bits` = -log2 P(text) is known.
    plot: the plot's name where one was recognised. reason: why not grammatical or not consistent, "" if both.
    grammatical_to, consistent_to: share of the characters (0 to 1) before the first place that is not.
    """

    grammatical: bool
    consistent: bool
    bits: float | None
    plot: str | None
    reason: str
    grammatical_to: float = 1.0
    consistent_to: float = 1.0


@dataclass(frozen=True)
class Score:
    """Shares (0 to 1) over `n` texts, and (index of the text, reason) for each text that missed one of the three.

    grammatical_to, consistent_to: mean share of a text before its first slip. A young model makes one in every
    text, so that these move long before the shares of whole texts do.
    """

    n: int
    grammatical: float
    consistent: float
    new: float
    failures: list[tuple[int, str]]
    grammatical_to: float
    consistent_to: float


# --- random numbers ---------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1


class SplitMix64:
    """A 64-bit generator in pure integers, hence the same everywhere. Source: Steele, Lea, Flood 2014, OOPSLA."""

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK

    def next(self) -> int:
        """The next of 2**64 equally likely integers."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in 0..n-1; for our n < 2**20 it is uniform to within 2**-44."""
        return (self.next() * n) >> 64


# --- words ------------------------------------------------------------------------------------------------------------

_AN_EXCEPTIONS = ("uni", "use", "uku", "one-")  # vowel letters that sound like consonants
_PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}


def article(phrase: str) -> str:
    """The phrase with its indefinite article: article("egg") is "an egg", article("ukulele") is "a ukulele"."""
    low = phrase.lower()
    vowel = low[0] in "aeiou" and not low.startswith(_AN_EXCEPTIONS)
    return f"{'an' if vowel or low.startswith(('hour', 'honest')) else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The regular English plural: fox, foxes; puppy, puppies; day, days."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def capital(text: str) -> str:
    """The text with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, eq=False, slots=True)
class Word:
    """A word or phrase of the lexicon. forms: name of the form -> its equally likely texts ("" is the plain word)."""

    forms: dict[str, tuple[str, ...]]

    def texts(self, form: str, cap: bool) -> tuple[str, ...]:
        """The alternatives for one form, capitalised on request."""
        texts = self.forms[form]
        return tuple(capital(t) for t in texts) if cap else texts

    def __str__(self) -> str:
        return self.forms[""][0]


def _make_word(entry: str, columns: Sequence[str] = (), cells: Sequence[str] = ()) -> Word:
    """A word with its derived forms (a, s, p) and the forms that its row in a table lists."""
    singular, _, irregular = entry.partition("/")
    forms: dict[str, tuple[str, ...]] = {
        "": (singular,),
        "a": (article(singular),),
        "s": (f"{singular}'s",),
        "p": (irregular or plural(singular),),
    }
    for column, cell in zip(columns, cells, strict=True):
        forms[column] = tuple(part.strip().replace("~", singular) for part in cell.split(";"))
    if "he" in forms:
        forms |= {form: (text,) for form, text in zip(("he", "him", "his"), _PRONOUNS[forms["he"][0]], strict=True)}
    return Word(forms)


@dataclass(frozen=True, eq=False)
class WordClass:
    """Words with whole-number weights; P(word) = weight / total."""

    words: tuple[Word, ...]
    weights: tuple[int, ...]
    total: int = field(init=False)
    cumulative: list[int] = field(init=False)
    weight_of: dict[Word, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative", list(accumulate(self.weights)))
        object.__setattr__(self, "total", sum(self.weights))
        object.__setattr__(self, "weight_of", dict(zip(self.words, self.weights, strict=True)))

    def draw(self, rng: SplitMix64) -> Word:
        """A random word, with its probability."""
        return self.words[bisect_right(self.cumulative, rng.below(self.total))]

    def bits(self, word: Word, taken: Iterable[Word] = ()) -> float:
        """-log2 P(word | not one of the taken words); the word itself must not be taken."""
        left = self.total - sum(self.weight_of.get(other, 0) for other in set(taken))
        return math.log2(left / self.weight_of[word])


def _rank_weight(rank: int) -> int:
    """The weight of the word at a rank (0 is the commonest): a mild form of Zipf's law, 1 / sqrt(rank + 8).

    Zipf's own 1 / rank would leave the last words of a class too rare to learn from 4 MB.
    """
    return math.isqrt(10**8 // (rank + 8))


# --- the grammar, compiled --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Pick:
    """A slot <class.form>: a free word, drawn anew each time."""

    word_class: str
    form: str
    cap: bool


@dataclass(frozen=True, eq=False, slots=True)
class Fact:
    """A slot {name.form} or {name:class.form}: a word that the story remembers under that name."""

    name: str
    word_class: str  # where the first mention takes it from
    form: str
    cap: bool


@dataclass(frozen=True, eq=False, slots=True)
class Rule:
    """A slot <rule>: one of several templates."""

    name: str
    cap: bool


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """A slot <@stage>: one of the plot's templates for that stage. The first stage of a story also picks the plot."""

    name: str


Symbol = str | Pick | Fact | Rule | Stage
Symbols = tuple[Symbol, ...]


@dataclass(frozen=True, eq=False)
class Options:
    """The alternatives of one choice, with their cost in bits."""

    symbols: tuple[Symbols, ...]
    cumulative: list[int]
    bits: tuple[float, ...]

    def draw(self, rng: SplitMix64) -> int:
        """The index of a random alternative."""
        return bisect_right(self.cumulative, rng.below(self.cumulative[-1]))


_SLOT = re.compile(r"<(@?)(\w+)(?:\.(\w+))?>|\{(\w+)(?::(\w+))?(?:\.(\w+))?\}|(\[[^]]*\])")


def _compile(template: str, cap: bool) -> Symbols:
    """The symbols of a template; with `cap` its first letter becomes a capital."""
    symbols: list[Symbol] = []
    at = 0
    for slot in _SLOT.finditer(template):
        if slot.start() > at:
            symbols.append(capital(template[at : slot.start()]) if cap and at == 0 else template[at : slot.start()])
        stage, free, free_form, fact, word_class, fact_form, inline = slot.groups()
        starts = cap and slot.start() == 0
        at = slot.end()
        if inline:
            symbols.append(Rule(inline, starts))
            continue
        label = free or fact
        upper = starts or label[0].isupper()
        name = label[0].lower() + label[1:]
        if stage:
            symbols.append(Stage(name))
        elif fact:
            symbols.append(Fact(name, word_class or lexicon.VARIABLES[name][0], fact_form or "", upper))
        elif name in lexicon.RULES:
            symbols.append(Rule(name, upper))
        else:
            symbols.append(Pick(name, free_form or "", upper))
    if at < len(template):
        symbols.append(capital(template) if cap and at == 0 else template[at:])
    return tuple(symbols)


def _options(alternatives: Sequence[lexicon.Alternative], cap: bool = False) -> Options:
    """The compiled alternatives; a bare template has weight 1."""
    weighted = [(1, item) if isinstance(item, str) else item for item in alternatives]
    total = sum(weight for weight, _ in weighted)
    return Options(
        tuple(_compile(template, cap) for _, template in weighted),
        list(accumulate(weight for weight, _ in weighted)),
        tuple(math.log2(total / weight) for weight, _ in weighted),
    )


@functools.cache
def _rule_options(name: str, cap: bool) -> Options:
    """The options of a rule: a name in lexicon.RULES, or an inline choice "[one|two]" itself."""
    return _options(name[1:-1].split("|") if name.startswith("[") else lexicon.RULES[name], cap)


class _Found(NamedTuple):
    """A word whose form stands at some place of a text; n: from how many equally likely texts of the form."""

    word: Word
    text: str
    n: int


class Grammar:
    """The lexicon, ready to walk: word classes, compiled options, and lookups from text to words."""

    def __init__(self) -> None:
        self.classes: dict[str, WordClass] = {}
        for name, row in lexicon.LISTS.items():
            pronoun = lexicon.PRONOUNS.get(name)
            columns, cells = (("he",), (pronoun,)) if pronoun else ((), ())
            self._add(name, [_make_word(entry, columns, cells) for entry in row.split(", ")])
        for name, (heading, rows) in lexicon.TABLES.items():
            forms = [column.strip() for column in heading.split("|")][1:]
            table = [[cell.strip() for cell in line.split("|")] for line in rows.strip().splitlines()]
            self._add(name, [_make_word(line[0], forms, line[1:]) for line in table])
        for name, parts in lexicon.UNIONS.items():
            members = [self.classes[part] for part in parts]
            self.classes[name] = WordClass(
                tuple(word for member in members for word in member.words),
                tuple(weight for member in members for weight in member.weights),
            )
        self.plots = tuple(lexicon.PLOTS)
        self.stages = {
            (plot, stage): _options(lexicon.PLOTS[plot][stage]) for plot in self.plots for stage in lexicon.STAGES
        }
        self.story = _compile(lexicon.STORY, False)
        self._lookups: dict[tuple[str, str, bool], tuple[list[int], dict[str, list[_Found]]]] = {}

    def _add(self, name: str, words: Sequence[Word]) -> None:
        self.classes[name] = WordClass(tuple(words), tuple(_rank_weight(rank) for rank in range(len(words))))

    def found_at(self, text: str, at: int, word_class: str, form: str, cap: bool) -> list[_Found]:
        """The words of the class whose form is what `text` continues with at position `at`."""
        key = (word_class, form, cap)
        if key not in self._lookups:
            table: dict[str, list[_Found]] = {}
            for word in self.classes[word_class].words:
                texts = word.texts(form, cap)
                for item in texts:
                    table.setdefault(item, []).append(_Found(word, item, len(texts)))
            self._lookups[key] = (sorted({len(item) for item in table}), table)
        lengths, table = self._lookups[key]
        return [
            found for length in lengths for found in table.get(text[at : at + length], ()) if at + length <= len(text)
        ]


@functools.cache
def grammar() -> Grammar:
    """The compiled grammar, built at the first use."""
    return Grammar()


# --- drawing ----------------------------------------------------------------------------------------------------------


def _draw(rng: SplitMix64) -> Tale:
    """Walk through the grammar with random choices."""
    g = grammar()
    out: list[str] = []
    facts: dict[str, Word] = {}
    plot = ""
    bits = 0.0
    todo: list[Symbol] = list(reversed(g.story))
    while todo:
        symbol = todo.pop()
        if isinstance(symbol, str):
            out.append(symbol)
            continue
        if isinstance(symbol, Rule | Stage):
            if isinstance(symbol, Rule):
                options = _rule_options(symbol.name, symbol.cap)
            else:
                if not plot:
                    plot = g.plots[rng.below(len(g.plots))]
                    bits += math.log2(len(g.plots))
                options = g.stages[plot, symbol.name]
            index = options.draw(rng)
            bits += options.bits[index]
            todo.extend(reversed(options.symbols[index]))
            continue
        words = g.classes[symbol.word_class]
        if isinstance(symbol, Pick):
            word = words.draw(rng)
            cost = words.bits(word)
        elif symbol.name in facts:
            word, cost = facts[symbol.name], 0.0
        else:
            word = words.draw(rng)
            while word in facts.values():  # drawing again gives P(word | not taken), what WordClass.bits computes
                word = words.draw(rng)
            cost = words.bits(word, facts.values())
            facts[symbol.name] = word
        texts = word.texts(symbol.form, symbol.cap)
        bits += cost + math.log2(len(texts))
        out.append(texts[rng.below(len(texts))] if len(texts) > 1 else texts[0])
    return Tale("".join(out), bits, plot)


def story(seed: int, index: int) -> Tale:
    """Story number `index` of the corpus with this seed; each is independent of the others."""
    return _draw(SplitMix64(SplitMix64(SplitMix64(seed).next() ^ (index & _MASK)).next()))


def corpus(n_bytes: int, seed: int = 0) -> Iterator[Tale]:
    """Stories 0, 1, 2, ... until their UTF-8 text, with a SEPARATOR after each, reaches n_bytes [bytes]."""
    size = index = 0
    while size < n_bytes:
        tale = story(seed, index)
        yield tale
        size += len(tale.text.encode()) + len(SEPARATOR)
        index += 1


def text(n_bytes: int, seed: int) -> bytes:
    """A corpus in UTF-8: its stories with SEPARATOR between them and a final newline."""
    return (SEPARATOR.join(tale.text for tale in corpus(n_bytes, seed)) + "\n").encode()


def write(path: Path, n_bytes: int = 4_000_000, seed: int = 0) -> None:
    """Write `text` as one file, atomically."""
    write_atomic(path, text(n_bytes, seed))


# --- parsing ----------------------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """A partial derivation: the text up to `at` is explained, the symbols are still to come."""

    at: int
    symbols: Symbols
    facts: dict[str, Word]
    plot: str
    bits: float


@dataclass
class _Walk:
    """What a walk found.

    found: finished derivations. stuck: the states that got furthest, up to character `at`, among those that did not
    fit. cut_off (lenient walks only): the text ended where the story could have gone on. gave_up: at MAX_STEPS.
    """

    found: list[_State] = field(default_factory=list)
    stuck: list[_State] = field(default_factory=list)
    at: int = 0
    cut_off: bool = False
    gave_up: bool = False


def _walk(text: str, strict: bool) -> _Walk:
    """Every derivation of the text: depth first, with an agenda in place of recursion, at most MAX_STEPS symbols.

    strict: facts and plot are remembered as in `_draw`. Otherwise any word of the class of a fact will do at any
    place, and any plot for any stage; then a state is only its position and its remaining symbols, and meeting the
    same state again cannot lead to anything new.
    """
    g = grammar()
    walk = _Walk()
    agenda = [_State(0, g.story, {}, "", 0.0)]
    seen: set[tuple[int, Symbols]] = set()
    for _ in range(MAX_STEPS):
        if not agenda:
            return walk
        state = agenda.pop()
        at, symbols, facts, plot, bits = state
        if not strict:
            if (at, symbols) in seen:
                continue
            seen.add((at, symbols))
        if not symbols:
            if at == len(text):
                walk.found.append(state)
            else:
                _note_stuck(walk, state)
            continue
        symbol, rest = symbols[0], symbols[1:]
        if len(text) - at < _LONGEST_SYMBOL and not strict and _may_continue(symbol, text[at:]):
            walk.cut_off = True
        if isinstance(symbol, str):
            if text.startswith(symbol, at):
                agenda.append(_State(at + len(symbol), rest, facts, plot, bits))
            else:
                _note_stuck(walk, state)
        elif isinstance(symbol, Rule):
            options = _rule_options(symbol.name, symbol.cap)
            for new, cost in zip(options.symbols, options.bits, strict=True):
                agenda.append(_State(at, new + rest, facts, plot, bits + cost))
        elif isinstance(symbol, Stage):
            plot_bits = 0.0 if plot else math.log2(len(g.plots))
            for name in (plot,) if plot and strict else g.plots:
                options = g.stages[name, symbol.name]
                for new, cost in zip(options.symbols, options.bits, strict=True):
                    agenda.append(_State(at, new + rest, facts, name, bits + plot_bits + cost))
        else:
            fitting = list(_continue(g, text, state, symbol, strict))
            agenda.extend(_State(at + length, rest, after, plot, bits + cost) for length, after, cost in fitting)
            if not fitting:
                _note_stuck(walk, state)
    walk.gave_up = True
    return walk


def _continue(
    g: Grammar, text: str, state: _State, symbol: Pick | Fact, strict: bool
) -> Iterator[tuple[int, dict[str, Word], float]]:
    """The ways in which the text at the state can be the symbol's word: (length, facts afterwards, cost in bits)."""
    facts = state.facts
    if isinstance(symbol, Fact) and strict and symbol.name in facts:
        texts = facts[symbol.name].texts(symbol.form, symbol.cap)
        for item in texts:
            if text.startswith(item, state.at):
                yield len(item), facts, math.log2(len(texts))
        return
    name = symbol.word_class if isinstance(symbol, Pick) or strict else lexicon.VARIABLES[symbol.name][0]
    words = g.classes[name]
    for word, item, n in g.found_at(text, state.at, name, symbol.form, symbol.cap):
        if isinstance(symbol, Pick) or not strict:
            yield len(item), facts, words.bits(word) + math.log2(n)
        elif word not in facts.values():
            yield len(item), {**facts, symbol.name: word}, words.bits(word, facts.values()) + math.log2(n)


def _note_stuck(walk: _Walk, state: _State) -> None:
    """Remember the states that explain most of the text."""
    if state.at > walk.at:
        walk.at, walk.stuck = state.at, []
    if state.at == walk.at:
        walk.stuck.append(state)


def _may_continue(symbol: Symbol, tail: str) -> bool:
    """Whether the tail of a text is less than the symbol could say there, so that the story may have been cut off."""
    if isinstance(symbol, str):
        return symbol != tail and symbol.startswith(tail)
    if isinstance(symbol, Pick | Fact):
        words = grammar().classes[symbol.word_class].words
        return any(
            item != tail and item.startswith(tail) for word in words for item in word.texts(symbol.form, symbol.cap)
        )
    return False


# --- judging ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> Verdict:
    """Judge a text as a tale (white space around it does not count); never slow, whatever the text.

    A consistent text gets its exact bits, -log2 P(text). Otherwise the reason names the first place where the text
    left the grammar, or the first fact that changed.
    """
    text = text.strip()
    strict = _walk(text, strict=True)
    if strict.found:
        first = strict.found[0]
        # the grammar is unambiguous, so there is one derivation; were there more, their probabilities would add up
        extra = sum(2.0 ** (first.bits - other.bits) for other in strict.found[1:])
        return Verdict(True, True, first.bits - math.log2(1 + extra), first.plot, "")
    lenient = _walk(text, strict=False)
    consistent_to = strict.at / max(1, len(text))
    if lenient.found:
        plot = strict.stuck[0].plot if strict.stuck else ""
        return Verdict(True, False, None, plot or None, _contradiction(text, strict), 1.0, consistent_to)
    return Verdict(False, False, None, None, _misfit(text, lenient), lenient.at / max(1, len(text)), consistent_to)


def _contradiction(text: str, walk: _Walk) -> str:
    """Why a grammatical text is not consistent, from the states where the strict parse got stuck."""
    g = grammar()
    sentence = _sentence_at(text, walk.at)
    best, reason = "", f'"{sentence}" does not agree with what came before'
    if walk.stuck and walk.stuck[0].plot:
        reason += f' in the plot "{walk.stuck[0].plot}"'
    for state in walk.stuck:
        fact = state.symbols[0] if state.symbols else ""
        if not isinstance(fact, Fact):
            continue
        class_name, label = lexicon.VARIABLES[fact.name]
        known = state.facts.get(fact.name)
        for _, item, _ in g.found_at(text, walk.at, class_name, fact.form, fact.cap):
            whole = not text[walk.at + len(item) : walk.at + len(item) + 1].isalpha()
            if not whole or len(item) <= len(best):
                continue
            best = item
            if known is None:
                reason = f'{label} cannot be "{item}", the story uses that already: "{sentence}"'
                continue
            expected = known.texts(fact.form, fact.cap)[0]
            if class_name == "sex" or fact.form in ("", "a", "s", "p"):
                reason = f'{label} was {expected}, then {item}: "{sentence}"'
            else:
                reason = f'{label} is {known} ("{expected}"), then "{item}": "{sentence}"'
    return reason


def _misfit(text: str, walk: _Walk) -> str:
    """Why a text is not grammatical, from the states where the lenient parse got stuck."""
    if not text:
        return "the text is empty"
    if walk.gave_up:
        return f"no derivation found within {MAX_STEPS} steps"
    if walk.cut_off:
        return f'the story stops before its ending, after "{text[-40:]}"'
    if any(not state.symbols for state in walk.stuck):
        return f'the story goes on after its ending: "{_sentence_at(text, walk.at)}"'
    return f'no template of the grammar fits "{_sentence_at(text, walk.at)}" from character {walk.at} on'


def _sentence_at(text: str, at: int) -> str:
    """The sentence around a position, at most about 160 characters of it."""
    before = re.split(r"(?<=[.!?])\s|(?<=[.!?]\")\s", text[max(0, at - 80) : at])[-1]
    after = re.split(r"(?<=[.!?])\s|(?<=[.!?]\")\s", text[at : at + 80])[0]
    return " ".join((before + after).split())


def floor_bits_per_byte(stories: Iterable[str]) -> float | None:
    """The entropy floor of these stories in bits per UTF-8 byte; None if one of them is not a tale, or there is none.

        floor = sum of -log2 P(story) / sum of bytes

    No model has a lower expected cost on stories of this generator. A model may get slightly below it on a few
    stories by luck, never on many. Separators between documents count neither bits nor bytes.
    """
    bits = 0.0
    n_bytes = 0
    for text in stories:
        verdict = parse(text)
        if verdict.bits is None:
            return None
        bits += verdict.bits
        n_bytes += len(text.strip().encode())
    return bits / n_bytes if n_bytes else None


def _normal(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def score(texts: Sequence[str], training: Collection[str]) -> Score:
    """Judge stories that a model wrote: the shares that are grammatical, consistent, and not in `training`.

    Two texts are the same story if they differ only in white space. Raises ValueError if there are no texts.
    """
    if not texts:
        raise ValueError("no texts to score: pass at least one story")
    known = {_normal(text) for text in training}
    verdicts = [parse(text) for text in texts]
    is_new = [_normal(text) not in known for text in texts]
    failures = []
    for index, (verdict, new) in enumerate(zip(verdicts, is_new, strict=True)):
        if verdict.reason:
            failures.append((index, verdict.reason))
        if not new:
            failures.append((index, "copied from the training stories"))
    n = len(texts)
    return Score(
        n,
        sum(verdict.grammatical for verdict in verdicts) / n,
        sum(verdict.consistent for verdict in verdicts) / n,
        sum(is_new) / n,
        failures,
        sum(verdict.grammatical_to for verdict in verdicts) / n,
        sum(verdict.consistent_to for verdict in verdicts) / n,
    )
