"""What a slot without a dot may become: {when}, {odd}, {goods}, the weather of a season."""

from data.town_words import OTHER_TOWNS, SEASONS, sections

PARTS = sections("""
[odd_kind]
old / rusty / wooden / tiny / blue / red / green / yellow / crooked / broken / dusty / very large /
left-handed / borrowed / forgotten / silver / velvet / painted / squeaky / perfectly good / lopsided /
purple / patched / wobbly
[odd_thing]
boot / key / bucket / umbrella / teapot / kite / slipper / drumstick / birdcage / ladder / map / button /
feather / basket / doorbell / anchor / bicycle bell / snow globe / waistcoat / pocket watch / horseshoe /
wheelbarrow / egg cup / bottle / spyglass / doll's house / candlestick / top hat / suitcase /
rocking chair / mitten
[goods_kind]
fresh / small / large / painted / second-hand / shiny
[goods_thing]
turnips / candles / clay pots / apples / buttons / ribbons / lanterns / baskets / spoons / pears / onions /
feathers / paper flowers / wooden ducks / eggs / bells / brushes / pumpkins / hats / cups / marbles /
cushions
[time_kind]
fine / grey / quiet / windy / bright / busy / sleepy / cool / perfectly ordinary
[time]
morning / afternoon / evening / market day / Monday / Tuesday / Wednesday / Thursday / Friday / Saturday /
Sunday
[when]
early in the morning / one day, quite early, / late one evening / after lunch / before breakfast /
when the bell had rung twelve, / just after sunrise / on the way home from work, /
between two showers of rain,
""")

FILLERS = sections("""
[town]
Tinytown
[day]
Monday / Tuesday / Wednesday / Thursday / Friday / Saturday / Sunday
[number]
two / three / four / five / six / seven / eight / nine
[soon]
at last / before long / by and by / in the end / after an hour / a little later / after all that /
when they had almost given up, / just before supper / all of a sudden / by the time the lamps were lit,
[busy]
sweeping the floor / counting nails / looking for a pencil / drinking tea / polishing a spoon /
mending a chair / writing a long list / talking to a sparrow / washing the windows / sorting buttons /
hanging up a picture / humming a tune / chasing a wasp / stacking boxes / warming both hands on a cup /
oiling a hinge / peeling an apple
[hobby]
flying kites / collecting shells / climbing trees / telling riddles / skipping stones / pressing flowers /
building model boats / watching the stars / drawing maps / growing roses / knitting scarves /
playing chess / carving spoons / counting clouds / feeding the swans / walking the hills /
swimming in the river / writing poems / juggling / folding paper birds / painting pebbles /
solving puzzles / hunting for fossils / dancing
[dream]
riding in a balloon / sailing round the world / meeting a whale / sleeping in a castle / writing a book /
winning the boat race / finding a treasure / crossing the mountains / seeing the northern lights /
building a flying machine / opening a little theatre / discovering a comet / living in a tree house /
riding an elephant / planting a forest / learning every song there is / keeping a dragon /
walking to the end of the road / catching a falling star / inventing a new colour
[answered]
answered / said / replied
[weather]
fine / windy / splendid / foggy / wet / strange / lovely / chilly
[cheered]
cheered / clapped / shouted for joy / stamped and whistled / threw their hats in the air
[laughed]
laughed / giggled / chuckled / snorted / laughed out loud
[spring]
The first swallows were back / The apple trees were in flower / Rain and sun took turns /
The ice had gone from the river / Every garden smelled of wet earth / The lambs were out on the hill /
A warm wind blew up from the river / Doors stood open again after the long cold
[summer]
The sun stood high over the roofs / The river was as warm as soup / The bees were busy in the clover /
It was too hot to wear shoes / The evenings were long and light / The cherries were ripe /
Swifts screamed round the clock tower / The dust lay white on the road
[autumn]
The leaves were turning / Mist lay on the river / The apples were in and the nuts were falling /
Smoke rose straight from every chimney / The geese flew over the town / The days were growing short /
The wind played with the leaves in the square / It smelled of mushrooms and wood
[winter]
Snow lay on every roof / The pump in the square was frozen / Icicles hung from the eaves /
It was dark before tea / The river wore a thin coat of ice / Frost had drawn ferns on the glass /
The stoves were warm and the windows were white / The town was as quiet as wool
""")


def article(noun: str) -> str:
    """The noun with its article: "owl" gives "an owl"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


FILLERS["away"] = OTHER_TOWNS
FILLERS["odd"] = tuple(
    article(f"{kind} {thing}") for kind in PARTS["odd_kind"] for thing in PARTS["odd_thing"])
FILLERS["goods"] = PARTS["goods_thing"] + tuple(
    f"{kind} {thing}" for kind in PARTS["goods_kind"] for thing in PARTS["goods_thing"])
FILLERS["when"] = PARTS["when"] + tuple(
    f"one {kind} {time}" for kind in PARTS["time_kind"] for time in PARTS["time"])
SKY = {season: FILLERS[season] for season in SEASONS}
