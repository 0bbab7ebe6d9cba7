"""Plain nouns for lists. None is an animal, an instrument, a place of work or a trade, which are asked for.

The stories do with some seventeen hundred words; a list to turn round or to sort is learnt by heart if its
words are few.
"""

WORDS = """
acorn alcove almanac amber anvil apron arch armchair arrow ash attic awning axle badge bag balcony ball
balloon bandage banister banner barge bark barn barrel basin bath bathtub battery beach bead beam bean beard
bed bedroom bedspread beech beetroot belfry bench berry bib bicycle bin binder birch biscuit blanket blaze
blind blossom blot blouse board boat bolt bonfire bonnet book bookmark border bow bowl box bracelet bracket
branch brass bread breeze brick bridge brim bristle brook broom broth brow bubble bud bulb bundle bunting
buoy burrow bush butter cabin cabinet cable cake calendar camera camp canal candle cane canoe canvas cap
cape caravan card cardboard cardigan cargo carpet carriage cart carton cask castle catapult cave cedar
ceiling cellar cement chain chair chalk channel chapter charcoal charm chart chasm cheese cherry chess chest
chimney chip chisel chocolate cinder cinnamon circle clamp clasp clay cliff cloak cloth cloud clover coach
coal coast coat cobweb cocoa coin collar comb comet cone copper coral cord cork corner corridor cot cottage
cotton couch counter court cradle crate crater crayon cream creek crescent crest crib crown crumb crust
crystal cube cuff cupboard curl current curtain cushion custard cycle cylinder dahlia daisy dam dawn
daylight deck den desert desk dew dial diamond diary dice dimple dinghy dish ditch dock doll dome domino
door doorstep doorway dough drain drawer drawing dream dress dressing drift drizzle dune dusk dust dustpan
easel echo edge eggshell elbow elm ember emerald engine entrance envelope evening eyebrow fabric fan
farthing fence fern fig finger fir fire firewood flag flagpole flame flannel flap flask flood floor flour
flower foam fog folder footpath footprint forehead forest fork fossil fountain frame freckle frost fruit
fuel funnel furnace furrow galaxy garden garland garlic gate gem ginger glacier glade glass glaze glider
globe glove glow glue goblet gold gourd grain granite grape grass gravel gravy grid grill groove ground
grove gull gutter hail hairpin hallway hamper handbag handle harness harvest hatch hawthorn haystack hazel
headland heap hearth heath heather hedge heel helmet hem herb hill hillside hinge hollow holly honey
honeycomb hood hoof hook hoop horizon horn hose hull hut ice iceberg icicle igloo ink inkpot inlet iris iron
island ivory ivy jacket jam jar jasmine jelly jetty jewel jigsaw joint journal journey jug juice jumper
jungle juniper kerb kernel kettle keyhole kiln kitchen knapsack knee knob knot label lace lagoon lake lamp
lamppost lane lantern larder latch lather laundry lavender lawn lead leaf leather ledge leek lemon lemonade
lens letter letterbox lettuce level lever lid lifeboat light lightning lilac lily lime line linen link lint
lobby lock locket lodge loft log loop lotion lupin mallet mantelpiece maple marble margin marigold marmalade
marsh mask mast mat match mattress maze meadow medal melon menu meteor milk mill mint minute mirror mist
moat model moment monsoon moon moonlight moor morning mortar mosaic moss motor mould mound mountain
moustache mud muffin mug mushroom mustard nail napkin necklace needle nest net nettle nickel nook notch note
notebook notice nozzle nut nutmeg oak oar oats ocean olive onion opal orange orbit orchid oregano outfit
oval oven overcoat pad padlock page pail paint paintbrush palace palm pan pancake panel pansy pantry paper
parachute parcel park parsley parsnip passage paste pastry patch path patio pattern pavement pea peach peak
pearl pebble peg pen pencil pendant pendulum penny pepper perfume petal petrol pew photograph picnic picture
pie pier pigtail pillar pillow pin pincushion pine pipe pitcher pitchfork plain planet plank plant plaster
plate platform playground pleat plinth plough plug plum pocket pod poem polish pollen pond pool poplar poppy
porch porridge port porthole portrait postcard poster pot potato pouch powder prairie prism prize propeller
pudding puddle pulley pulp pump pumpkin puppet purse puzzle pyramid quarry quartz quay quill quilt quince
radiator radio radish raft rag rail railing railway rain rainbow raincoat raindrop raisin ramp ranch
raspberry rattle ravine razor reed reef reel ribbon rice riddle ridge rim ring ripple river road robe rock
rocket roll roof room root rope rosebud rosemary route row rubble ruby rudder ruffle rug ruin ruler runway
rust rye sack saffron sage sail salad salt sand sandal sandcastle sandwich sapling sapphire sash satchel
satellite satin sauce saucer savoury sawdust scale scarf scissors scone scoop scooter score scrap scrapbook
screen screw scroll sea seam seashell season seat seaweed seed shade shadow shaft shampoo shawl shed sheet
shelf shell shelter shield ship shirt shoe shoelace shore shovel shower shrub shutter sickle sieve signal
signpost silk sill silver sink skate sketch ski skirt sky skylight slate sleet sleeve sleigh slide sling
slope smoke snow snowball snowdrift snowflake snowman soap sock soda sofa soil song soot soup spade spark
spice spinach spindle spinner spiral splash splinter spoke sponge spool spoon spout spray spring sprout
spruce spur square stable stage stain stair staircase stairwell stake stamp star starlight statue steam
steel steeple stem step stew stick sticker stile stilt stirrup stitch stone stool stopper storm stove strand
strap straw stream street string stripe stump sugar suit summer summit sun sunbeam sunflower sunlight
sunrise sunset sunshade surf surface swamp swing switch syrup table tablecloth tail tangerine tank tap tape
tapestry target tarpaulin tart tassel teacup tent terrace thatch thicket thimble thistle thorn thread
threshold throne thumb thunder thyme ticket tide tie tile timber timetable tin tinsel tissue toast toffee
tomato tongs tool toolbox toothbrush torch towel track tractor trail tray treacle treasure treat tree
trellis trench triangle tricycle trinket trolley trophy trough trousers trowel trunk tub tube tulip tumbler
tunnel turban turf turnip turret tweezers twig twilight twine tyre valley valve vanilla varnish vase vault
veil velvet vent verandah vest village vine vinegar violet volcano voyage waffle wagon waist wall wallet
wallpaper walnut wardrobe wasteland watch water watercress waterfall wave wax weather wedge weed well wharf
wheat wheel whirlpool whisker whistle wick wicker wig willow winch wind window windowsill windscreen wing
winter wire wood woodland wool workbench worktop wreath wrench wrinkle wrist yard yarn yeast yoghurt yolk
zigzag zip
"""
NOUNS = tuple(WORDS.split())
