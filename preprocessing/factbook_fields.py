"""Which fields of the World Factbook are asked about, and in what words. Nothing is read here.

A field is a path in the publisher's JSON, a pattern that finds the answer in its value, and a few
phrasings written by hand. The phrasings avoid the Factbook's own label where English allows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TITLES = (
    "Acting|Transitional|Interim|Prime Minister|President|King|Queen|Emir|Amir|Sultan|Grand Duke|"
    "Prince|Governor-General|Governor General|Governor|Lieutenant Governor|Premier|Chancellor|"
    "Chief Minister|Taoiseach|State Councilor|Supreme Leader|Captain Regent|Chairman|Chairperson|"
    "Administrator|High Commissioner|Commissioner|Sovereign|Pope|General|Sir|Dame|"
    r"Gen\.|Col\.|Dr\."
)
PERSON = rf"^(?P<answer>(?:(?:{TITLES}) )*(?P<short>[^;,(:]+?)) \((?:since|born|represented)"
UP_TO_NOTE = r"^(?P<answer>[^;(]+?)\s*(?:$|[;(]|note\b)"
DATE = r"^(?P<answer>\d{1,2} [A-Z][a-z]+ \d{4})\b"


NO_ANSWER = re.compile(r"(?:none|NA|no official symbol)$|(?:and|of|Council) ")
"""What looks like an answer and is none: an empty value, or the rest of a title."""


@dataclass(frozen=True, slots=True)
class QuestionField:
    """One field that questions are made from.

    Attributes:
        name: short and unique; written into every question's line.
        path: keys in the publisher's JSON, section first.
        pattern: searched in the cleaned value; group `answer` is the answer, group `short`, if
            there is one, a shorter form that is right as well.
        phrasings: questions with `{country}` in them.
    """

    name: str
    path: tuple[str, ...]
    pattern: str
    phrasings: tuple[str, ...]

    def answers(self, value: str) -> tuple[str, ...]:
        """Every accepted answer that the value gives, the fullest first; none if it gives none."""
        found = re.search(self.pattern, value)
        if found is None:
            return ()
        forms = [found["answer"], found.groupdict().get("short")]
        cleaned = [form.strip(' "') for form in forms if form]
        return tuple(dict.fromkeys(form for form in cleaned if form and not NO_ANSWER.match(form)))


FIELDS = (
    QuestionField(
        "capital",
        ("Government", "Capital", "name"),
        UP_TO_NOTE,
        (
            "what is the capital of {country}?",
            "which city is the seat of government of {country}?",
            "name the capital city of {country}",
        ),
    ),
    QuestionField(
        "currency",
        ("Economy", "Exchange rates", "Currency"),
        r"^(?P<answer>(?P<short>[^;(]+?)(?: \([A-Z]{2,4}\))?) per US dollar",
        (
            "what currency is used in {country}?",
            "with what money do people pay in {country}?",
            "what is the currency of {country} called?",
        ),
    ),
    QuestionField(
        "chief of state",
        ("Government", "Executive branch", "chief of state"),
        PERSON,
        (
            "who is the chief of state of {country}?",
            "who is the head of state of {country}?",
            "which person is the state's highest representative in {country}?",
        ),
    ),
    QuestionField(
        "head of government",
        ("Government", "Executive branch", "head of government"),
        PERSON,
        (
            "who is the head of government of {country}?",
            "who leads the government of {country}?",
            "who runs the cabinet in {country}?",
        ),
    ),
    QuestionField(
        "independence",
        ("Government", "Independence"),
        DATE,
        (
            "when did {country} become independent?",
            "on what date did {country} gain independence?",
            "since when has {country} been a state of its own?",
        ),
    ),
    QuestionField(
        "highest point",
        ("Geography", "Elevation", "highest point"),
        r"^(?P<answer>[^;:]+?) [\d,.]+ m\b",
        (
            "what is the highest point in {country}?",
            "what is the highest mountain or place of {country}?",
            "where is the top elevation of {country}?",
        ),
    ),
    QuestionField(
        "highest elevation",
        ("Geography", "Elevation", "highest point"),
        r"(?P<answer>[\d,.]+ m)\b",
        (
            "how high is the highest point of {country}?",
            "how many metres does {country} reach at its top?",
            "what elevation does the tallest peak of {country} have?",
        ),
    ),
    QuestionField(
        "mean elevation",
        ("Geography", "Elevation", "mean elevation"),
        r"^(?P<answer>[\d,.]+ m)\b",
        (
            "what is the mean elevation of {country}?",
            "how high above the sea is {country} on average?",
            "what is the average height of the land in {country}?",
        ),
    ),
    QuestionField(
        "coastline",
        ("Geography", "Coastline"),
        r"^(?P<answer>[\d,.]+ km)\b",
        (
            "how long is the coastline of {country}?",
            "what is the length of the coast of {country}?",
            "how many kilometres of shore does {country} have?",
        ),
    ),
    QuestionField(
        "area",
        ("Geography", "Area", "total"),
        r"^(?P<answer>[\d,.]+(?: million)? sq km)\b",
        (
            "what is the total area of {country}?",
            "how large is {country}?",
            "how many square kilometres does {country} cover?",
        ),
    ),
    QuestionField(
        "land boundaries",
        ("Geography", "Land boundaries", "total"),
        r"^(?P<answer>[\d,.]+ km)\b",
        (
            "how long are the land boundaries of {country}?",
            "what is the total length of the borders of {country}?",
            "how many kilometres of frontier does {country} have on land?",
        ),
    ),
    QuestionField(
        "coordinates",
        ("Geography", "Geographic coordinates"),
        r"^(?P<answer>\d+ \d+ [NS], \d+ \d+ [EW])",
        (
            "what are the geographic coordinates of {country}?",
            "at what latitude and longitude does {country} lie?",
            "where on the globe is {country}, in degrees?",
        ),
    ),
    QuestionField(
        "internet code",
        ("Communications", "Internet country code"),
        r"^(?P<answer>\.[a-z]{2,3})\b",
        (
            "what is the internet country code of {country}?",
            "which top-level domain belongs to {country}?",
            "with what do web addresses from {country} end?",
        ),
    ),
    QuestionField(
        "internet users",
        ("Communications", "Internet users", "percent of population"),
        r"^(?P<answer>[\d.]+%)",
        (
            "what percentage of the population of {country} uses the internet?",
            "what share of people in {country} is online?",
            "how many percent of {country} are internet users?",
        ),
    ),
    QuestionField(
        "nationality",
        ("People and Society", "Nationality", "noun"),
        r"^(?P<answer>(?P<short>[^;,(]+)(?:\([a-z]+\))?)",
        (
            "what is a citizen of {country} called?",
            "what do you call a person from {country}?",
            "what is the noun for the people of {country}?",
        ),
    ),
    QuestionField(
        "population",
        ("People and Society", "Population", "total"),
        r"^(?P<answer>[\d,]+(?:\.\d+ (?:million|billion))?)(?= |$)",
        (
            "what is the population of {country}?",
            "how many people live in {country}?",
            "how many inhabitants does {country} have?",
        ),
    ),
    QuestionField(
        "median age",
        ("People and Society", "Median age", "total"),
        r"^(?P<answer>[\d.]+ years)\b",
        (
            "what is the median age in {country}?",
            "how old is the middle person of {country}?",
            "what age divides the people of {country} into two equal halves?",
        ),
    ),
    QuestionField(
        "life expectancy",
        ("People and Society", "Life expectancy at birth", "total population"),
        r"^(?P<answer>[\d.]+ years)\b",
        (
            "what is the life expectancy in {country}?",
            "how long do people in {country} live on average?",
            "how many years can a newborn in {country} expect to live?",
        ),
    ),
    QuestionField(
        "fertility",
        ("People and Society", "Total fertility rate"),
        r"^(?P<answer>(?P<short>[\d.]+) children born/woman)",
        (
            "what is the total fertility rate of {country}?",
            "how many children does a woman in {country} have on average?",
            "how many babies are born per woman in {country}?",
        ),
    ),
    QuestionField(
        "urban population",
        ("People and Society", "Urbanization", "urban population"),
        r"^(?P<answer>[\d.]+%)",
        (
            "what share of the population of {country} lives in cities?",
            "how urban is {country}, in percent?",
            "how many percent of people in {country} are town dwellers?",
        ),
    ),
    QuestionField(
        "national symbol",
        ("Government", "National symbol(s)"),
        r"^(?P<answer>[^;(]+?)\s*(?:$|[;(]|note\b|national colors)",
        (
            "what is the national symbol of {country}?",
            "which emblem stands for {country}?",
            "what animal, plant or thing represents {country}?",
        ),
    ),
    QuestionField(
        "national colors",
        ("Government", "National color(s)"),
        UP_TO_NOTE,
        (
            "what are the national colors of {country}?",
            "which colors stand for {country}?",
            "in what colors does {country} show itself?",
        ),
    ),
    QuestionField(
        "anthem",
        ("Government", "National anthem(s)", "title"),
        r'^"(?P<answer>[^"]+)"',
        (
            "what is the national anthem of {country} called?",
            "what is the title of the anthem of {country}?",
            "which song is sung for {country} on state occasions?",
        ),
    ),
    QuestionField(
        "official name",
        ("Government", "Country name", "conventional long form"),
        r"^(?!none)(?P<answer>[^;(]+?)\s*(?:$|[;(])",
        (
            "what is the official name of {country}?",
            "what is the long form of the name {country}?",
            "how is {country} called in full?",
        ),
    ),
    QuestionField(
        "government type",
        ("Government", "Government type"),
        UP_TO_NOTE,
        (
            "what type of government does {country} have?",
            "what kind of state is {country}?",
            "how is {country} governed?",
        ),
    ),
    QuestionField(
        "legislature",
        ("Government", "Legislative branch", "legislature name"),
        r"^(?P<answer>(?P<short>[^;(]+?)(?: \([^)]+\))?)\s*(?:$|;)",
        (
            "what is the legislature of {country} called?",
            "what is the name of the parliament of {country}?",
            "which body makes the laws of {country}?",
        ),
    ),
    QuestionField(
        "seats",
        ("Government", "Legislative branch", "number of seats"),
        r"^(?P<answer>\d+)\b",
        (
            "how many seats does the legislature of {country} have?",
            "how many members sit in the parliament of {country}?",
            "what is the number of lawmakers in {country}?",
        ),
    ),
    QuestionField(
        "national holiday",
        ("Government", "National holiday"),
        r"^(?P<answer>[^;(,]+, \d{1,2} [A-Z][a-z]+)\b",
        (
            "what is the national holiday of {country}?",
            "which day of the year does {country} celebrate?",
            "on what day is there a national celebration in {country}?",
        ),
    ),
    QuestionField(
        "aircraft prefix",
        ("Transportation", "Civil aircraft registration country code prefix"),
        r"^(?P<answer>[A-Z0-9-]+)\b",
        (
            "what is the aircraft registration prefix of {country}?",
            "with which code are civil planes from {country} marked?",
            "what letters stand first on aeroplanes registered in {country}?",
        ),
    ),
    QuestionField(
        "airports",
        ("Transportation", "Airports"),
        r"^(?P<answer>[\d,]+)(?= |$)",
        (
            "how many airports does {country} have?",
            "what is the number of airfields in {country}?",
            "how many places to land a plane are there in {country}?",
        ),
    ),
)
"""What is asked. Answers are the publisher's; the questions are generated."""
