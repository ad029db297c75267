"""Which parts of the World Factbook become passages. `prepare_factbook.py` cuts them."""

CONTENTS = {
    "Geography": (
        "Location",
        "Geographic coordinates",
        "Map references",
        "Area",
        "Area - comparative",
        "Land boundaries",
        "Coastline",
        "Maritime claims",
        "Climate",
        "Terrain",
        "Elevation",
        "Natural resources",
        "Irrigated land",
        "Natural hazards",
    ),
    "People and Society": (
        "Population",
        "Nationality",
        "Ethnic groups",
        "Languages",
        "Religions",
        "Age structure",
        "Median age",
        "Population growth rate",
        "Birth rate",
        "Death rate",
        "Net migration rate",
        "Urbanization",
        "Life expectancy at birth",
        "Total fertility rate",
        "Literacy",
    ),
    "Government": (
        "Country name",
        "Government type",
        "Capital",
        "Administrative divisions",
        "Legal system",
        "Constitution",
        "Suffrage",
        "Executive branch",
        "Legislative branch",
        "Judicial branch",
        "Independence",
        "National holiday",
        "Flag",
        "National symbol(s)",
        "National color(s)",
        "National anthem(s)",
        "National heritage",
    ),
    "Economy": (
        "Agricultural products",
        "Industries",
        "Exports - partners",
        "Imports - partners",
        "Exchange rates",
    ),
    "Communications": (
        "Telephones - fixed lines",
        "Telephones - mobile cellular",
        "Broadcast media",
        "Internet country code",
        "Internet users",
    ),
    "Transportation": (
        "Civil aircraft registration country code prefix",
        "Airports",
        "Heliports",
        "Railways",
        "Merchant marine",
        "Ports",
    ),
}
"""Sections and fields that become passages. With all of the Factbook the corpus would be four times
as large, and so would be the time that a demo on two cores spends on embedding it."""

NAMES_OF_2015 = {
    "Geography": ("Elevation extremes",),
    "People and Society": (),
    "Government": ("Flag description", "National anthem"),
    "Economy": ("Agriculture - products",),
    "Communications": (),
    "Transportation": ("Ports and terminals",),
}
CONTENTS_2015 = {section: (*CONTENTS[section], *NAMES_OF_2015[section]) for section in CONTENTS}
"""The same for the edition of 2015, which called some of these fields otherwise."""

MAX_LINE_WORDS = 25
"""Longer lines are prose; no question is asked about them, and they are left out as well."""
