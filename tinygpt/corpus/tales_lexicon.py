"""The words, phrases and plots of the built-in tales; nothing but data. `tales.py` reads it and explains it.

A template is text with slots:

    <name>        a free choice, made anew each time: a rule of RULES, or a word of a class
    {name}        a fact of this story: chosen at its first mention, the same ever after (VARIABLES gives its class)
    <name.form>   another form of the word, and likewise {name.form}: a (with its article), s (possessive),
                  p (plural), he / him / his, or a column of the word's table
    {name:class}  the first mention takes its word from this smaller class
    [one|two]     a free choice between texts written on the spot (they may contain slots, but no brackets)
    <@stage>      that stage of the story's plot (PLOTS)

A capital first letter of the name makes the text of the slot begin with a capital. Sentences that may be missing
carry their own leading space. `(3, "...")` is an alternative three times as likely as a bare one.

Two things must hold, and tests/unit/test_tales.py checks them: the alternatives of one choice differ in their
text, and no two sequences of choices give the same text, so that every story has exactly one derivation. Two facts of
one story are never the same word.
"""

from __future__ import annotations

Alternative = str | tuple[int, str]

STORY = "<opening><gap><@wish><gap><@try><gap><detour><@help><gap><@solve><gap><closing>"
"""Every tale, from the first word to the last."""

STAGES = ("wish", "try", "help", "solve")

VARIABLES = {  # variable: (class, how to call it when explaining an inconsistency)
    "hero": ("folk", "the hero"),
    "friend": ("folk", "the friend"),
    "kind": ("kind", "what the hero is"),
    "adult": ("adult", "the grown-up"),
    "helper": ("helper", "the helper"),
    "hs": ("sex", "the helper's pronoun"),
    "worker": ("worker", "the worker"),
    "ws": ("sex", "the worker's pronoun"),
    "beast": ("animal", "the animal"),
    "bs": ("sex", "the animal's pronoun"),
    "place": ("place", "the place"),
    "place2": ("place", "the second place"),
    "home": ("home", "the hero's home"),
    "thing": ("toy", "the thing"),
    "colour": ("colour", "the thing's colour"),
    "wear": ("wear", "what the hero wears"),
    "wc": ("colour", "the colour of what the hero wears"),
    "trait": ("trait", "the hero's character"),
    "food": ("food", "the food"),
    "fruit": ("fruit", "the fruit"),
    "find": ("find", "the small find"),
    "spot": ("spot", "the hiding place"),
    "game": ("game", "the game"),
    "music": ("instrument", "the instrument"),
    "plant": ("plant", "the plant"),
    "flower": ("flower", "the flower"),
    "tree": ("tree", "the tree"),
    "tool": ("tool", "the tool"),
    "stuff": ("material", "the material"),
    "vehicle": ("vehicle", "the vehicle"),
    "love": ("love", "what the hero loves"),
    "love2": ("love", "what else the hero loves"),
    "dream": ("dream", "the first dream"),
    "dream2": ("dream", "the second dream"),
    "lesson": ("lesson", "the lesson"),
    "lesson2": ("lesson", "the second lesson"),
    "spot2": ("spot", "the first place to look"),
    "spot3": ("spot", "the second place to look"),
    "taste": ("taste", "how it tastes"),
    "insect": ("insect", "the insect"),
    "number": ("number", "the number"),
    "season": ("season", "the season"),
    "pattern": ("pattern", "the pattern"),
    "song": ("topic", "what the song or letter is about"),
}

UNIONS = {  # a class made of smaller ones
    "child": ("girl", "boy"),
    "folk": ("girl", "boy", "critter"),
    "kind": ("girl_kind", "boy_kind", "animal"),
    "helper": ("animal", "worker"),
    "place": ("wild", "water", "town", "indoors"),
}

PRONOUNS = {"girl": "she", "boy": "he"}  # of the classes in LISTS whose words are persons

LISTS = {  # class: its words, the commonest first; "mouse/mice" gives an irregular plural
    "girl_kind": "girl",
    "boy_kind": "boy",
    "girl": "Lily, Mia, Anna, Emma, Rosie, Ella, Nora, Lucy, Clara, Zoe, Ruby, Alice, Maya, Ida, Julia, Leah, "
    "Hazel, Olive, Freya, Nina, Tara, Amy, Eva, Martha, Penny, Stella, Wendy, Carla, Dora, Greta, Holly, Iris, "
    "Jana, Kitty, Lola, Molly, Nelly, Paula, Rita, Sofia, Tilda, Vera, Yara, Bella, Cora, Daphne, Edith, Flora, "
    "Hannah, Joy",
    "boy": "Tom, Ben, Max, Sam, Leo, Jack, Finn, Oscar, Noah, Theo, Henry, Adam, Luke, Jacob, Peter, Oliver, "
    "Emil, Felix, Hugo, Ivan, Jonah, Karl, Milo, Nathan, Otto, Paul, Robin, Simon, Toby, Victor, Walter, Arthur, "
    "Bruno, Conrad, Daniel, Eric, Frank, George, Harry, Jasper, Kevin, Liam, Martin, Ned, Owen, Patrick, Ralph, "
    "Stefan, Timothy, Will",
    "colour": "red, blue, green, yellow, white, purple, orange, pink, brown, golden, silver, black, grey, "
    "violet, scarlet, turquoise, crimson, ivory, copper, lilac, emerald, amber, cream, indigo",
    "trait": "curious, kind, brave, shy, cheerful, clever, gentle, patient, lively, thoughtful, stubborn, "
    "careful, dreamy, playful, honest, quiet, helpful, friendly, restless, sensible, bold, polite, merry, "
    "hopeful, eager, adventurous, hardworking, impatient, forgetful, generous, jolly, serious, chatty, tidy, "
    "inventive, nimble, modest, daring, warm-hearted, observant",
    "wear": "hat, scarf, coat, jacket, cap, cape, sweater, shirt, apron, backpack, ribbon, vest, cloak, "
    "bonnet, belt, necktie, bandana, raincoat, beret, hood, waistcoat, cardigan, sash, button, bracelet, shawl, "
    "tunic, poncho",
    "food": "soup, bread, cheese, porridge, pie, pudding, stew, rice, toast, jam, pancakes, noodles, cookies, "
    "honey, dumplings, sandwiches, biscuits, muffins, pasta, salad, waffles, omelette, custard, gingerbread, "
    "popcorn, chocolate, raisins, walnuts, crackers, marmalade, yogurt, sausages",
    "fruit": "apple, pear, plum, peach, orange, cherry, strawberry, banana, melon, apricot, fig, lemon, grape, "
    "blueberry, raspberry, quince, mango, pineapple, coconut, currant, tangerine, gooseberry, date, papaya",
    "find": "pebble, shell, feather, acorn, coin, button, marble, pine cone, key, bead, chestnut, leaf/leaves, "
    "twig, thimble, ring, crystal, fossil, stamp, medal, walnut, buckle, whistle, pearl, cork, bottle cap, "
    "locket, brooch, seashell, gemstone, token",
    "spot": "under the bed, behind the door, under a bench, inside a hollow log, behind the curtain, under a "
    "pile of leaves, beneath the stairs, behind a bush, in the tall grass, under the table, on top of the "
    "wardrobe, inside a boot, behind a barrel, at the bottom of a basket, between two rocks, under the porch, "
    "inside the wheelbarrow, behind the woodpile, in an old bucket, next to the fence, under the blanket, inside "
    "the flowerpot, in the corner of the attic, beside the mailbox, below the window, among the roots of a tree, "
    "behind the sofa, in the drawer, under the doormat, inside the teapot, behind the stove, on the windowsill",
    "game": "hide and seek, tag, marbles, hopscotch, chess, catch, leapfrog, dominoes, cards, pirates, tug of "
    "war, checkers, skittles, football, badminton, dress-up, charades, knights and dragons, blind man's buff, "
    "jump rope, explorers, detectives, shopkeepers, skipping stones, riddles",
    "instrument": "drum, flute, guitar, violin, piano, trumpet, harp, banjo, cello, accordion, tambourine, "
    "xylophone, harmonica, fiddle, horn, ukulele, recorder, trombone, clarinet, mandolin, bagpipe, triangle",
    "plant": "pumpkin, carrot, cabbage, turnip, melon vine, tomato, beetroot, radish, cucumber, potato, squash, "
    "onion, leek, marrow, parsnip, cauliflower, sweetcorn, lettuce, aubergine, artichoke, broccoli, spinach, "
    "rhubarb",
    "flower": "daisy, rose, tulip, sunflower, violet, poppy, lily, daffodil, buttercup, bluebell, snowdrop, "
    "pansy, iris, marigold, dandelion, primrose, lavender bush, orchid, foxglove, geranium, hyacinth, crocus, "
    "jasmine flower, peony, carnation, aster, dahlia, forget-me-not, cornflower, petunia",
    "tree": "oak, apple tree, willow, birch, pine, maple, chestnut tree, beech, elm, cherry tree, poplar, fir, "
    "cedar, ash, hazel bush, pear tree, spruce, linden, alder, walnut tree, rowan, holly bush, larch, plum tree, "
    "cypress, sycamore",
    "bird": "robin, blackbird, sparrow, thrush, finch, wren, cuckoo, swallow, lark, blue tit, starling, "
    "nightingale, woodpecker, magpie, kingfisher, pigeon, dove, goldfinch, warbler, seagull, oriole, jay, "
    "bullfinch, nuthatch",
    "insect": "bee, butterfly, dragonfly, ladybird, grasshopper, ant, beetle, cricket, moth, bumblebee, firefly, "
    "wasp, caterpillar, gnat, earwig, cicada",
    "tool": "rope, ladder, hammer, spade, bucket, basket, net, broom, saw, rake, lantern, needle, paintbrush, "
    "shovel, wheelbarrow, hook, crowbar, pulley, fishing rod, wrench, screwdriver, chisel, trowel, magnet, "
    "spoon, pole",
    "material": "wood, paper, wool, clay, cardboard, straw, leather, felt, silk, tin, cloth, velvet, glass, "
    "wire, bark, string, canvas, linen, wax, cotton, bamboo, birch bark, porcelain, denim",
    "vehicle": "cart, wagon, sledge, bicycle, tractor, carriage, scooter, truck, trolley, tricycle, van, barrow, "
    "bus, caravan, handcart, milk float",
    "number": "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty",
    "season": "spring, summer, autumn, winter",
    "pattern": "stripes, dots, stars, flowers, hearts, moons, zigzags, checks, swirls, tiny birds, clouds, "
    "anchors, leaves, spirals, diamonds, snowflakes, waves, circles",
    "topic": "the sea, the moon, a sleepy dragon, a brave little tailor, the four winds, a runaway horse, the "
    "first snow, a lonely lighthouse, an upside-down king, the morning sun, three blind pirates, a dancing bear, "
    "a sailor and a whale, a goose with spectacles, the man in the tower, a queen of mushrooms, a train in the "
    "night, a giant with cold feet, a lost shoe, a wooden horse, a singing kettle, a castle of ice, a parade of "
    "ants, the river at dusk",
    # adjectives
    "little": "little, small, young, tiny, cheerful-looking, bright-eyed, freckled, rosy-cheeked, barefoot, "
    "curly-haired, sleepy-eyed, skinny, round-faced, sturdy, lanky",
    "nice": "lovely, pretty, shiny, beautiful, soft, wonderful, splendid, fine, brand-new, fancy, charming, "
    "handsome, magnificent, delightful, perfect, elegant, marvellous, gorgeous, sparkling, smooth, glossy, "
    "well-made, dainty, remarkable, precious, unusual, old-fashioned, sweet little, polished, gleaming",
    "big": "big, huge, tall, enormous, giant, large, mighty, massive, heavy, broad, towering, vast, steep, "
    "gigantic, immense",
    "happy": "happy, glad, proud, joyful, delighted, cheerful, pleased, merry, thrilled, grateful, content, "
    "overjoyed, excited, light-hearted, lucky, relieved, peaceful, blissful, strong, giddy, calm, jubilant, "
    "satisfied, cosy, radiant",
    "sad": "sad, unhappy, lonely, upset, gloomy, miserable, disappointed, sorry, glum, tearful, heartbroken, "
    "worried, blue, downcast, helpless, hopeless, troubled, dismayed, crestfallen, forlorn, cross, discouraged, "
    "bitter, sorrowful, restless, dejected, wretched, homesick",
    "scared": "scared, afraid, frightened, nervous, worried, uneasy, shaky, terrified, jumpy, anxious, timid, "
    "alarmed, startled, fearful, wobbly, unsure, tense, panicky, spooked",
    "surprised": "surprised, amazed, astonished, speechless, stunned, puzzled, thunderstruck, wide-eyed, "
    "dumbfounded, baffled, astounded, flabbergasted, bewildered",
    "tired": "tired, sleepy, weary, worn out, exhausted, drowsy, breathless, dusty, muddy, sore, "
    "hungry, thirsty, footsore, sweaty, dizzy, chilly",
    "weather": "sunny, windy, rainy, cold, warm, foggy, bright, cloudy, snowy, frosty, breezy, misty, stormy, "
    "mild, hot, crisp, grey, golden, drizzly, blustery, still, dewy, chilly, hazy, sparkling, damp",
    "taste": "sweet, warm, sticky, fresh, juicy, crunchy, spicy, creamy, tasty, buttery, crispy, salty, "
    "delicious, tangy, steaming, fluffy, golden-brown, homemade, peppery, mouth-watering, velvety",
    "good_folk": "kind, wise, friendly, gentle, clever, helpful, old, good-natured, generous, patient, cheerful, "
    "smiling, thoughtful, soft-spoken, humble, plump, whiskered, grumpy-looking, well-known, silver-haired, "
    "soft-hearted, gruff",
    # verbs in the past
    "wanted": "wanted, hoped, wished, longed, planned, decided, meant, needed, intended, yearned",
    "felt": "felt, looked, seemed, became, grew, remained, appeared",
    "found": "found, discovered, spotted, came across, noticed, stumbled upon",
    "saw": "saw, noticed, spotted, glimpsed, discovered, observed, caught sight of",
    "went": "walked, ran, hurried, skipped, wandered, marched, strolled, rushed, hopped, trotted, tiptoed, "
    "dashed, raced, crept, scampered, trudged, bounced, galloped, drifted, sauntered, jogged, ambled, plodded, "
    "bounded, scurried, hiked, limped, pranced, strode, danced, tramped",
    "said": "said, replied, answered, whispered, called, murmured, added, explained, mumbled, smiled, announced, "
    "declared, stated, observed, muttered, nodded, remarked, piped up, chuckled",
    "asked": "asked, wondered, begged, inquired, called out, demanded, pleaded, ventured",
    "cried": "cried, shouted, gasped, exclaimed, yelled, squealed, wailed, burst out, sobbed, groaned, howled, moaned",
    "cheered": "cheered, laughed, shouted, called, sang, giggled, beamed, squealed, hooted, whooped, crowed, roared",
    "searched": "looked, searched, peeked, peered, hunted, poked around, rummaged, snooped, felt around, "
    "checked, explored, crawled, sniffed around, dug around, glanced",
    "pulled": "pulled, tugged, pushed, heaved, shook, twisted, hauled, yanked, shoved, dragged, wiggled, jerked, "
    "tapped, pried",
    "grinned": "smiled, grinned, nodded, blushed, winked, beamed, bowed, chuckled, clapped, giggled, curtsied, "
    "waved, shrugged, blinked, laughed",
    "chirped": "sang, chirped, whistled, twittered, chattered, called, warbled, trilled, tweeted, piped",
    "buzzed": "buzzed, hummed, danced, flew, whirred, fluttered, darted, circled, zigzagged, hovered, glided, "
    "zoomed, flitted",
    # adverbs, exclamations and connectives
    "quickly": "quickly, slowly, happily, quietly, carefully, bravely, eagerly, gently, softly, proudly, "
    "cheerfully, gladly, patiently, nervously, calmly, boldly, politely, shyly, joyfully, at once, hopefully, "
    "thoughtfully, swiftly, lightly, steadily, merrily, firmly, stubbornly, with a smile, with a sigh, briskly, "
    "dreamily, solemnly, cautiously",
    "glumly": "sadly, quietly, softly, slowly, nervously, shyly, gloomily, anxiously, bitterly, wearily, "
    "helplessly, timidly, crossly, hoarsely, miserably, faintly, tearfully, with a sigh, with "
    "a lump in the throat",
    "soon": "soon, after a while, before long, at last, in the end, finally, a little later, by and by, after "
    "lunch, by noon, before sunset, in no time, the very next day, an hour later, that same evening, early next "
    "morning, sooner or later, when the clock struck five, little by little",
    "then": "then, after that, next, a moment later, just then, suddenly, right away, in that moment, all at "
    "once, a minute later, presently, without warning, to everyone's surprise, meanwhile, luckily, as luck would "
    "have it",
    "woe": "oh no, oh dear, alas, what a pity, how awful, goodness, oh my, what bad luck, dear me, how terrible, "
    "bother, not again, good grief, heavens, botheration, what a mess, what a shame",
    "yay": "hooray, wow, hurrah, yes, look, how wonderful, at last, what luck, splendid, yippee, bravo, how "
    "marvellous, fantastic, we did it, amazing, goody, brilliant, terrific, whee",
    "thanks": "thank you, thank you so much, many thanks, how kind of you, thanks a lot, I will never forget "
    "this, a thousand thanks, bless you, I am so grateful, you are very kind, you saved the day, that was noble "
    "of you",
    # small nouns and phrases
    "daypart": "morning, afternoon, day, evening, Saturday, Sunday, Monday, Tuesday, Wednesday, Thursday, "
    "Friday, weekend",
    "smell": "flowers, fresh bread, rain, pine needles, wet grass, warm earth, wood smoke, mint, hay, salt, "
    "cinnamon, moss, ripe apples, sea air, honey, lemons, mushrooms, clover, damp leaves, roasted nuts, soap, "
    "vanilla, lilac, thyme, cut grass, peppermint",
    "sky": "blue, grey, clear, pale, pink, dark, full of clouds, as blue as a cornflower, wide and empty, "
    "streaked with gold, heavy with rain, dotted with swallows, milky, lavender, as smooth as glass, bright as a "
    "penny",
    "gentle": "gentle, soft, playful, cool, warm, sudden, light, cheeky, lazy, tiny, mild, quick, fresh, curious, "
    "friendly, strong, silent",
    "breeze": "breeze, wind, gust, puff of air, draught, zephyr, whirlwind, shower, sunbeam, cloud of dust, "
    "raindrop, snowflake",
    "stroked": "tickled, touched, brushed, cooled, stroked, kissed, tapped, landed on, warmed, sprinkled",
    "nose": "nose, cheeks, forehead, ears, chin, shoulders, neck, elbows, toes, hair, eyelashes, knees, fingers",
    "love": "songs, stories, puddles, picnics, riddles, stars, maps, long walks, puzzles, boats, parades, tall "
    "towers, jokes, painting, climbing, baking, dancing, rainbows, trains, bedtime stories, collecting stamps, "
    "drawing, magic tricks, old books, knitting, fairy tales, whistling, gardening, pirates, swimming, windy "
    "days, sewing, thunderstorms, secrets, cartwheels, counting clouds, juggling, bonfires, watching trains, "
    "tongue twisters",
    "furniture": "armchair, pillow, window, fireplace, rocking chair, bed, hammock, rug, cushion, lamp, kitchen "
    "table, shelf, bathtub, stool, cupboard, mirror, balcony, doorstep, mattress, quilt, cradle, bookcase, "
    "candle, chimney, staircase",
    "lesson": "be kind, share, tell the truth, ask for help, try again, be patient, listen, keep a promise, say "
    "sorry, help a friend, stay calm, work together, trust a friend, take care of small things, think before "
    "acting, forgive, be brave, laugh at a mistake, speak up, wait for the right moment, look twice, lend a "
    "hand, be grateful, never give up, slow down, start small, keep trying",
    "noun": "treasure, gold, crown, castle, mountain of sweets, kingdom, palace, sack of silver, chest of "
    "jewels, throne, ship, title, golden carriage, barrel of toys, birthday cake, tower of cream puffs",
    "dream": "dragons, kites, whales, faraway islands, silver fish, friendly giants, flying carpets, meadows, "
    "elephants, balloons, comets, polar bears, castles in the clouds, a river of chocolate, snowmen, unicorns, "
    "camels, hot-air balloons, tigers, lighthouses, penguins, acrobats, submarines, rockets, mermaids, "
    "volcanoes, kangaroos, planets, jugglers, knights",
    "ordinal": "first, second, third, fourth, fifth, sixth, seventh, last, hottest, coldest, longest, finest",
    "bright": "sparkled, shone, glowed, twinkled, glimmered, glittered, gleamed, flashed, shimmered, glinted, "
    "grew round",
}

TABLES = {  # class: (columns, one word per row; cells divided by "|", alternatives by ";", ~ is the word)
    "critter": (
        "| he",
        """
        Pip | he
        Bramble | she
        Nutmeg | she
        Patch | he
        Button | he
        Clover | she
        Pepper | he
        Willow | she
        Rusty | he
        Daisy | she
        Fidget | he
        Poppy | she
        Thistle | he
        Honey | she
        Acorn | he
        Maple | she
        Biscuit | he
        Pebble | she
        Twig | he
        Sorrel | she
        Bumble | he
        Velvet | she
        Scamp | he
        Dewdrop | she
        Tumble | he
        Mitten | she
        Whisker | he
        Snowy | she
        Barnaby | he
        Juniper | she
        """,
    ),
    "adult": (
        "| he",
        """
        mother | she
        father | he
        grandmother | she
        grandfather | he
        aunt | she
        uncle | he
        big sister | she
        big brother | he
        cousin Agatha | she
        cousin Edgar | he
        teacher | she
        godmother | she
        neighbour | he
        nanny | she
        """,
    ),
    "sex": ("| he", "he | he\nshe | she"),
    "animal": (
        "| says | spot",
        """
        fox | barked | at the edge of the woods
        rabbit | squeaked | in front of a burrow
        owl | hooted | in a hollow tree
        squirrel | chattered | on a low branch
        hedgehog | snuffled | under a heap of leaves
        mouse/mice | squeaked | behind a crack in the wall
        frog | croaked | on a lily pad
        duck | quacked | among the reeds
        bear | growled softly | in front of a cave
        cat | purred | on a warm wall
        dog | barked | beside a kennel
        badger | grumbled | at the mouth of a tunnel
        beaver | said with a slap of the tail | on a dam of sticks
        mole | mumbled | on a mound of earth
        goat | bleated | on a rocky ledge
        sheep/sheep | bleated | by a stone wall
        horse | neighed | behind a white gate
        donkey | brayed | under a thatched roof
        pig | grunted | in a puddle of mud
        goose/geese | honked | beside a haystack
        chicken | clucked | on a nest of straw
        crow | cawed | on top of a scarecrow
        turtle | said very slowly | on a flat stone
        snail | whispered | under a rhubarb leaf
        deer/deer | said gently | between two birches
        otter | giggled | on the riverbank
        bat | squeaked | under the church roof
        swan | sang | on the still water
        heron | said, standing on one leg | at the water's edge
        hamster | squeaked | in a bed of sawdust
        pony | whinnied | under a chestnut branch
        parrot | squawked | on a wooden perch
        wolf/wolves | growled | in the shadow of a cliff
        """,
    ),
    "worker": (
        "| says | spot | shop | goods | task",
        """
        baker | said; replied; answered | behind the counter of the bakery | bakery | rolls | kneading the dough
        miller | said; replied; answered | at the door of the mill | mill | flour | carrying the sacks
        farmer | said; replied; answered | beside the barn | farm | eggs | feeding the chickens
        gardener | said; replied; answered | in the greenhouse | nursery | seedlings | pulling the weeds
        fisher | said; replied; answered | on the pier | boathouse | herrings | scrubbing the boat
        letter carrier | said; replied; answered | on a red bicycle | post office | letters | sorting the letters
        shopkeeper | said; replied; answered | in the doorway of the shop | store | groceries | dusting the shelves
        tailor | said; replied; answered | at a long table | workshop | trousers | winding the thread
        shoemaker | said; replied; answered | in a narrow lane | shoe shop | slippers | polishing the boots
        carpenter | said; replied; answered | between piles of planks | joinery | chairs | sweeping up the shavings
        blacksmith | said; replied; answered | at the forge | smithy | horseshoes | pumping the bellows
        painter | said; replied; answered | on a scaffold | studio | pictures | rinsing the brushes
        librarian | said; replied; answered | between tall shelves | library | books | stacking the books
        clockmaker | said; replied; answered | among ticking clocks | clock shop | watches | oiling the wheels
        potter | said; replied; answered | at the turning wheel | pottery | jugs | mixing the clay
        shepherd | said; replied; answered | on the green slope | sheepfold | fleeces | counting the lambs
        beekeeper | said; replied; answered | among the hives | bee garden | jars of honey | labelling the jars
        florist | said; replied; answered | under a striped awning | flower shop | bouquets | watering the roses
        sailor | said; replied; answered | at the harbour wall | ship's store | ropes | coiling the ropes
        nurse | said; replied; answered | at the clinic gate | clinic | bandages | rolling the bandages
        juggler | said; replied; answered | on a little stage | circus | tickets | folding the costumes
        weaver | said; replied; answered | at a creaking loom | weaving room | blankets | untangling the yarn
        cook | said; replied; answered | in a steamy kitchen | inn | dinners | peeling the potatoes
        woodcutter | said; replied; answered | beside a stack of logs | lumber yard | firewood | tying the bundles
        lighthouse keeper | said; replied; answered | at the top of a stair | lighthouse | lamps | wiping the lenses
        conductor | said; replied; answered | on the platform | station | maps | calling out the stops
        candlemaker | said; replied; answered | in a cellar | candle shop | candles | cutting the wicks
        musician | said; replied; answered | beside the fountain | music shop | strings | copying the notes
        ferryman | said; replied; answered | at the landing stage | ferry | rides | bailing out the water
        mayor | said; replied; answered | on the town hall steps | town hall | stamps | ringing the bell
        """,
    ),
    "wild": (
        "| at | see",
        """
        forest | in the ~ | tall ferns; mossy stones; a ring of mushrooms
        garden | in the ~ | neat rows of beans; a rusty watering can; a bird bath
        park | in the ~ | a row of benches; a merry-go-round; a fountain
        hill | on the ~ | a lonely windmill; grazing sheep; a winding path
        meadow | in the ~ | wild flowers; a wooden gate; molehills
        farm | on the ~ | a red tractor; bales of straw; a noisy henhouse
        orchard | in the ~ | crooked ladders; baskets of windfalls; busy wasps
        valley | in the ~ | a sparkling brook; a shepherd's hut; patches of fog
        cave | in the ~ | dripping stones; strange echoes; a trickle of water
        mountain | on the ~ | a snowy peak; goats on the rocks; an eagle's nest
        bridge | on the ~ | carved railings; a lamp post; barges below
        cornfield | in the ~ | rustling leaves; a hare; red poppies
        swamp | in the ~ | twisted roots; bubbling mud; dragonflies
        clearing | in the ~ | a fallen trunk; patches of sunlight; wild strawberries
        """,
    ),
    "water": (
        "| at | see",
        """
        beach | on the ~ | foamy waves; a striped umbrella; tiny crabs
        river | by the ~ | a stone bridge; silver fish; round pebbles
        pond | by the ~ | green reeds; water lilies; a leaky rowing boat
        lake | by the ~ | a long jetty; a tiny island; swans far out
        harbour | at the ~ | fishing boats; coils of rope; screaming gulls
        island | on the ~ | palm trees; an old shipwreck; turtle tracks
        waterfall | by the ~ | a rainbow; slippery rocks; a cloud of spray
        """,
    ),
    "town": (
        "| at | see",
        """
        market | at the ~ | piles of vegetables; a stall with cheeses; colourful awnings
        school | at the ~ | a blackboard; a row of coat hooks; a globe
        library | in the ~ | thousands of books; a spiral staircase; a reading lamp
        station | at the ~ | a puffing engine; a big clock; heaps of suitcases
        playground | on the ~ | two swings; a slide; a sandpit
        castle | at the ~ | a drawbridge; high towers; a faded flag
        village square | on the ~ | a stone well; a statue of a horse; a bandstand
        zoo | at the ~ | two zebras; a yawning lion; monkeys on a rope
        fair | at the ~ | a big wheel; sticks of candy; a puppet theatre
        museum | in the ~ | dinosaur bones; a suit of armour; marble statues
        bakery | in the ~ | trays of buns; sacks of flour; a glowing oven
        lighthouse | at the ~ | a winding stair; a bright lamp; crashing surf
        toy shop | in the ~ | rows of dolls; a wooden railway; tin soldiers
        courtyard | in the ~ | an old pump; pots of basil; washing on a line
        """,
    ),
    "indoors": (
        "| at | see",
        """
        barn | in the ~ | dusty beams; a sleeping cat; a ladder to the loft
        attic | in the ~ | old trunks; a cobweb; a broken mirror
        kitchen | in the ~ | copper pans; a bowl of lemons; a steaming kettle
        cellar | in the ~ | dusty bottles; a heap of potatoes; a squeaky door
        greenhouse | in the ~ | ripe tomatoes; dripping glass; curling vines
        """,
    ),
    "home": (
        "| at",
        """
        village | in a ~; near a ~
        cottage | in a ~
        farmhouse | in a ~; beside a ~
        town | in a ~
        hut | in a ~; near a ~
        city | in a ~
        mill | in a ~; next to a ~
        tower | in a ~
        houseboat | on a ~
        burrow | in a ~
        cabin | in a ~; behind a ~
        wooden house | in a ~
        castle | in a ~; near a ~
        caravan | in a ~
        valley | in a ~
        lighthouse | in a ~
        treehouse | in a ~
        inn | in an ~; above an ~
        """,
    ),
    "toy": (
        "| do | did",
        """
        kite | fly | flew
        ball | bounce | bounced
        doll | hug | hugged
        boat | sail | sailed
        drum | beat | beat
        top | spin | spun
        book | read | read
        puzzle | solve | solved
        teddy bear | cuddle | cuddled
        whistle | blow | blew
        wagon | pull | pulled
        bell | ring | rang
        lantern | light | lit
        puppet | play with | played with
        rocking horse | ride | rode
        umbrella | open | opened
        blanket | hold | held
        music box | wind | wound
        sled | steer | steered
        train | push | pushed
        paint box | use | used
        spyglass | look through | looked through
        compass | follow | followed
        cup | fill | filled
        crown | wear | wore
        balloon | float | floated
        skateboard | ride | rode
        telescope | look through | looked through
        clock | wind | wound
        robot | repair | repaired
        mask | wear | wore
        basket | carry | carried
        yo-yo | swing | swung
        hoop | roll | rolled
        flute | play | played
        tent | pitch | pitched
        magnifying glass | peer through | peered through
        accordion | squeeze | squeezed
        notebook | write in | wrote in
        snow globe | shake | shook
        swing | paint | painted
        harmonica | practise | practised
        """,
    ),
}

RULES: dict[str, list[Alternative]] = {
    "gap": [(3, " "), (2, "\n\n")],
    # the opening settles the name, the character and the home
    "opening": [
        "Once upon a time there was <little.a> <who>. <habit>",
        "Once upon a time, {home.at}, there lived <little.a> <who>. <habit>",
        "[Far|Not so far] away, {home.at}, lived <little.a> <who>. <habit>",
        "This is the story of <little.a> <who>. <habit>",
        "Have you [ever |]heard of <name_who>? <habit>",
        "<Name_who>, lived {home.at} with {hero.his} {adult}. <habit>",
        "It was {season}, and <little.a> <who> was [bored|wide awake|sitting in <tree.a>|sitting on the "
        "<furniture>]. <habit>",
        "{Home.at} there [once |]lived <little.a> <who>. <habit>",
        "<Name_who>, grew up {home.at}. <habit>",
        "Not so long ago there [lived|was] <little.a> <who>. <habit>",
    ],
    "who": [
        "{kind:girl_kind} <called> {hero:girl}",
        "{kind:boy_kind} <called> {hero:boy}",
        "{kind:animal} <called> {hero:critter}",
    ],
    "name_who": [
        "{hero:girl}, the <little> {kind:girl_kind}",
        "{hero:boy}, the <little> {kind:boy_kind}",
        "{hero:critter}, the <little> {kind:animal}",
    ],
    "called": ["named", "called", "by the name of", "whose name was", "who was called"],
    "habit": [
        "{Hero.he} was {trait} and loved {love}, {love2} and <taste> <food>.",
        "{Hero.he} was {trait}, had <number> <colour> <find.p> and never went out without {hero.his} {wc} {wear}.",
        "[Everybody|The whole neighbourhood|Every <bird>] liked {hero} because {hero.he} was so {trait}.",
        "{Hero} was {trait}. More than anything, {hero.he} loved {love} and {love2}.",
        '"What {trait.a} {kind} you are, {hero}," {hero.his} {adult} [used to say|often said|always said].',
        "{Hero} was {trait}, even on <weather> days, and talked about {love} and {love2}.",
        "{Hero.his} {wc} {wear} with {pattern} could be seen from far away, and so could {hero.his} {trait} smile.",
        "[People|Neighbours|Strangers] called {hero.him} the most {trait} {kind} around.",
        "{Hero.he} was {trait}, kept <find.a> in {hero.his} {wear} and played the {music}.",
        "{Hero} was {trait}, collected <find.p> and owned <number> <tool.p> made of <material>.",
        "{Hero.his} {adult} drove <colour.a> <vehicle> full of <food>, and {trait} {hero} [often|always] came along.",
        "{Hero.he} was {trait} and lived on <taste> <food>, <fruit.p> and {love}.",
    ],
    # small sentences for everywhere; one that may be missing brings its own space
    "day": [
        "One <weather> <daypart>",
        "On <weather.a> <daypart>",
        "One <daypart>",
        "On the <ordinal> day of {season}",
        "One <weather> <daypart>, when the sky was <sky>",
    ],
    "scene": [
        "",
        " The air smelled of <smell>.",
        " [It was <weather>, and the|The] air smelled of <smell> and <smell>.",
        " [The sky was <sky>|The sky looked <sky>|Above, all was <sky>], and <bird.a> <chirped> <quickly>.",
        (4, " {Hero.he} [passed|noticed|admired|walked past] {place.see}."),
        " {Hero} [saw|pointed at] {place.see} and, a little further on, <colour.a> <insect>.",
        " <Colour.a> <bird> <chirped> <quickly> in <big.a> <tree>.",
        " <Colour> <insect.p> <buzzed> around [<colour.a>|the] <flower>.",
        " <Gentle.a> <breeze> <stroked> {hero.his} <nose>.",
        " {Hero.he} counted <number> <bird.p>, one <insect> and <colour.a> <flower>.",
        " Somewhere [someone played <instrument.a>|<instrument.a> was playing], and <bird.a> <chirped>.",
        " On <big.a> <tree> sat <number> <colour> <bird.p> and <little.a> <animal>.",
        " <Animal.a> in <colour.a> <wear> [sold|carried|counted] <taste> <fruit.p> and <find.p>.",
        " <Little.a> <animal> was playing the <instrument> for <number> <insect.p>.",
        " Under the <flower.p> lay <colour.a> <find> and <nice.a> <instrument>.",
        " {Worker.a} was [busy |]{worker.task} nearby.",
        " {Worker.a} from the {worker.shop} [brought|was selling|carried] {worker.goods}.",
        " <Colour_vehicle> made of <material> rolled by.",
    ],
    "detour": [
        "",
        "{Hero} <went> on, past <big.a> <tree>, <number> <animal.p> and {place.see}. ",
        "[First|But first], {hero} ate <taste> <fruit.p> and <food> and <went> on <quickly>. ",
        "{Hero} [put|stuffed] <find.a>, <number> <fruit.p> and <colour.a> <find> into {hero.his} {wear}. ",
        "<Then>, <gentle.a> <breeze> <stroked> {hero.his} <nose>, and <colour.a> <bird> <chirped> <quickly>. ",
        "{Hero} [thought of|dreamed of|missed] <taste> <food>, <dream> and <love>. ",
        '"[I must <lesson>|One should <lesson>|It helps to <lesson>]," {hero} <said> <quickly>. ',
    ],
    "colour_vehicle": ["<colour.a> <vehicle>", "<big.a> <colour> <vehicle>"],
    "bad": [
        " {Hero} <felt> <sad>.",
        ' "<Woe>!" <cried> {hero} <glumly>.',
        ' "<Woe>," <said> {hero} <glumly>.',
        " It made {hero.him} feel <sad> and <scared>.",
        " {Hero.he} was <tired>, and {hero.he} <felt> <sad>.",
        " {Hero} was as <sad> as <lonely_thing>.",
        " A tear [rolled|ran] down {hero.his} [nose|left cheek|right cheek|chin].",
        " [That|This] was not what {hero} had [wished for|dreamed of].",
        ' "[I am so <sad>|I feel <sad>|It is hopeless|This is hard]," {hero} <said>.',
        " {Hero} <pulled> {hero.his} {wear} and <felt> <scared>.",
    ],
    "lonely_thing": [
        "a wet <bird>",
        "<colour.a> kite without wind",
        "an empty cup",
        "<flower.a> in the rain",
        "a lost <find>",
    ],
    "good": [
        ' "<Yay>!" <cheered> {hero} <quickly>.',
        " {Hero} was <happy> and <happy2>.",
        " {Hero} <felt> <happy>, <surprised> and a little <tired>.",
        " {Hero} <grinned> <quickly>, and <bird.a> <chirped>.",
        ' "<Yay>!" {hero} <cheered>, and {hero.his} eyes <bright>.',
        " {Hero.s} heart felt as light as <colour.a> <find>.",
        " Even the <colour> <bird.p> in the <tree> <chirped> <quickly>.",
        ' "I am so <happy>," {hero} <said>, and {hero.he} <grinned> <quickly>.',
        " <Happy> and <happy2>, {hero} <grinned> <quickly>.",
    ],
    "happy2": ["<tired>", "<surprised>"],
    "thank": [
        ' "<Thanks>!" <said> {hero}.',
        ' "<Thanks>," <said> {hero} <quickly>.',
        " {Hero} thanked {hs.him} <quickly>.",
        ' "<Thanks>, dear {helper}," <said> {hero} <quickly>.',
        " {Hero} gave {hs.him} <find.a> and <grinned>.",
    ],
    "meets": [
        "<Then>, <good_folk.a> {helper} appeared {helper.spot}.",
        "<Then>, {hero} met <good_folk.a> {helper} {helper.spot}.",
        "<Soon>, {hero.he} [saw|found|noticed] <good_folk.a> {helper} {helper.spot}.",
        "{Hero} <went> on <quickly>. {Helper.spot} {hero.he} [found|met] <good_folk.a> {helper}.",
    ],
    "problem": [
        ' "What is [the matter|wrong]?" <the_helper> {helper.says}.',
        ' "Why [do you look|are you] so <sad>?" <the_helper> {helper.says}.',
        ' "Can I help you[, little {kind}|]?" <the_helper> {helper.says}.',
        ' "You look <sad>, little {kind}," <the_helper> {helper.says}.',
    ],
    "tells": [
        " {Hero} told {hs.him} everything.",
        " {Hero} told the {helper} <quickly> what had happened.",
        " {Hero.he} explained it all, from beginning to end.",
        " <So> {hero} told {hs.him} the whole story.",
    ],
    "the_helper": ["the {helper}", "the <good_folk> {helper}"],
    "a_friend": [
        "{hero.his} friend {friend}",
        "{hero.his} best friend {friend}",
        "{hero.his} old friend {friend}",
        "{hero.his} playmate {friend}",
        "{friend}",
    ],
    "but": ["But", "Yet", "Sadly,", "Still,", "However,", "Unfortunately,", "Alas,", "But alas,"],
    "so": ["So", "And so", "Therefore", "That is why", "For this reason", "And that is why"],
    "everybody": [
        "everybody",
        "everyone",
        "the whole village",
        "all the <animal.p>",
        "each <worker>",
        "every <animal>",
        "half the town",
    ],
    "closing": [
        "<night> <moral>",
        "<night>",
        "<moral>",
        "<homecoming> <moral>",
        "<homecoming> <night>",
        "<homecoming>",
    ],
    "homecoming": [
        "At home, {hero.his} {adult} [made|cooked|served] <taste> <food>, and {hero} talked about the {place}.",
        "When {hero} came home from the {place}, {hero.his} {adult} <grinned> and served <taste> <food> and <fruit.p>.",
        "{Hero} <went> home for <taste> <food>. {Hero.his} {adult} <grinned> <quickly>.",
        "Supper was <food> with <fruit.p>, and {hero} was <happy> and <tired>.",
        "At home, {hero.he} <went> to {hero.his} {adult}, who was making <taste> <food> with <fruit.p>.",
    ],
    "night": [
        "That night, {hero} dreamed of {dream}, {dream2} and <colour.a> <animal>.",
        "In the evening, {hero.he} hung {hero.his} {wc} {wear} over the <furniture> and dreamed of {dream}.",
        "{Hero} fell asleep [next to|in front of|under] the <furniture>, <tired> but <happy>.",
        "Before bed, {hero.his} {adult} sang about <topic>, and the {trait} {kind} dreamed of {dream}.",
        "When the moon rose over the {place}, the {trait} {kind} dreamed of {dream} and <colour> <find.p>.",
        "{Hero} dreamed of {dream}, of <colour> <flower.p> and of <taste> <fruit.p>.",
        "Then {hero} <went> to bed with <colour.a> <find> and dreamed of {dream} and {dream2}.",
    ],
    "moral": [
        "Since then, {hero} has [always|often] tried to {lesson} and to {lesson2}.",
        "And so the {trait} {kind} learned to {lesson} and to {lesson2}.",
        "From that day on, {hero} knew how good it is to {lesson}.",
        "It is better to {lesson} than to own <noun.a>[, thought {hero}|].",
        "{Lesson}, {lesson2}: that is what {hero} [remembered|learned|kept in mind].",
    ],
}

PLOTS: dict[str, dict[str, list[Alternative]]] = {
    "lost thing": {
        "wish": [
            "{Hero.his} favourite [thing|treasure] was <nice.a> {colour} {thing}. <Day>, {hero} <wanted> to "
            "{thing.do} it {place:wild.at}, but it was gone.<bad>",
            "<Day>, {hero} took {hero.his} {colour} {thing} to the {place:wild}.<scene> When {hero.he} looked up, "
            "the {thing} had [vanished|disappeared].<bad>",
        ],
        "try": [
            "{Hero} <searched> {spot2}. Then {hero.he} <searched> {spot3}. There was only <find.a>.<bad>",
            "[First|At first] {hero} <searched> {spot2}, and then {spot3}, but the {thing} was not there.<bad>",
        ],
        "help": [
            '<meets><problem><tells> "I <saw> something {colour} {spot}," {hs.he} <said> <quickly>.',
            '<meets> "Are you looking for something {colour}?" {hs.he} <asked>. "[Look|Try|Search] {spot}!"<thank>',
        ],
        "solve": [
            "{Hero} <went> there <quickly>. And [really|indeed|sure enough|behold], {spot} lay the {colour} "
            "{thing}.<good>",
            "And there, {spot}, was {hero.his} {colour} {thing}!<good> {Hero} {thing.did} it until "
            "[sunset|bedtime|supper].",
        ],
    },
    "shop window": {
        "wish": [
            "<Day>, {hero} <saw> <nice.a> {colour} {thing} in a shop window. {Hero.he} <wanted> to {thing.do} it, "
            "but it cost {number} coins.<bad>",
            'In the window of a [little |]shop stood {colour.a} {thing}. "I wish I could {thing.do} it," {hero} '
            "<said>. <But> it cost {number} coins.<bad>",
        ],
        "try": [
            "{Hero} shook {hero.his} [piggy bank|money box|old sock]. Only <find.a> and <find.a> fell out.<bad>",
            "{Hero.he} <searched> {spot2} for money and <found> [nothing but|only] <find.a>.<bad>",
        ],
        "help": [
            'The {worker} stood {worker.spot}. "I need help with {worker.task}," {ws.he} <said>. "I will pay you '
            '{number} coins." {Hero} began <quickly>.',
            "At the {worker.shop}, the {worker} needed a helping hand. <So> {hero} spent the whole day "
            "{worker.task}, and {ws.he} [paid|gave] {hero.him} {number} coins.",
        ],
        "solve": [
            "{Hero} <went> back [to the shop |]and bought the {colour} {thing}.<good> {Hero.he} {thing.did} it "
            "{place.at} [all day long|until dark].",
            "With {number} coins in {hero.his} pocket, {hero} <went> to the shop. Now the {colour} {thing} was "
            "{hero.his} own.<good> {Hero.he} {thing.did} it {place.at}.",
        ],
    },
    "stuck in a tree": {
        "wish": [
            "<Day>, {hero} and {hero.his} friend {friend} played {game} {place:wild.at}.<scene> A gust of wind "
            "[carried|blew] {friend.s} {colour} {thing} up into <big.a> {tree}.",
            "<Day>, <a_friend> <wanted> to show {hero} <nice.a> {colour} {thing}. <But> {friend.he} threw it too "
            "high, and it got stuck in <big.a> {tree} {place:wild.at}.",
        ],
        "try": [
            "{Hero} <pulled> the trunk of the {tree}, but the {thing} did not [move|budge|fall].<bad>",
            "{Friend} threw <find.a>, and {hero} <pulled> the lowest branch. The {thing} stayed in the {tree}.<bad>",
        ],
        "help": [
            '<meets><tells> "I can [fetch|bring|lend you] {tool.a}," {hs.he} <said> <quickly>.',
            '<meets> "All you need is {tool.a}," <the_helper> {helper.says}.<thank>',
        ],
        "solve": [
            "With the {tool} they reached the branch, and the {colour} {thing} fell right into {friend.s} "
            "[arms|lap].<good>",
            "{Hero} [climbed|went] up with the {tool}. Down came the {thing}, and {friend} {thing.did} it again.<good>",
        ],
    },
    "new friend": {
        "wish": [
            "<Day>, a new family moved in next door. {Hero} [wanted|needed] a friend to play {game} with, and "
            "{hero.he} <saw> a shy child called {friend:child} {place.at}.<scene>",
            "{Hero} had nobody to play {game} with. <Day>, {hero.he} noticed {friend:child}, who was new, "
            "{place.at}.<scene>",
        ],
        "try": [
            "{Hero} waved, but {friend} looked away and <felt> <scared>.<bad>",
            '"[Hello|Good morning|Hi there]!" <cried> {hero}. {Friend} ran off and hid {spot}.<bad>',
        ],
        "help": [
            '"Give {friend.him} time," {hero.his} {adult} <said> <quickly>. "Why not [bring|offer] {friend.him} '
            'some <taste> {food}?"',
            '{Hero} asked {hero.his} {adult} for advice. "[Everybody|Everyone] likes {food}," {adult.he} <said> '
            "<quickly>.",
        ],
        "solve": [
            '<So> {hero} carried <taste> {food} to the {place} and gave it to {friend}. "Do you play {game}?" '
            "{friend} <asked>.<good>",
            "{Hero} left the <taste> {food} {place.at} and waited. {Friend} came, tasted the {food} and <grinned> "
            "<quickly>. They played {game} until [dark|sunset].<good>",
        ],
    },
    "last piece": {
        "wish": [
            "<Day>, {hero} was very hungry. There was only one {fruit} left in the bowl {place.at}, <taste> and "
            "<taste>.<scene>",
            '"I am so hungry," <said> {hero} <quickly>. In {hero.his} {wear} was one last {fruit}, which {hero.he} '
            "<wanted> to eat {place.at}.<scene>",
        ],
        "try": [
            "{Hero.he} was about to bite when <a_friend> came past, <tired> and [hungry|thirsty] too. {Hero} hid "
            "the {fruit} {spot}.<bad>",
            "<Then>, <a_friend> came along. {Friend.he} looked at the {fruit} and <felt> <sad>. {Hero} looked away "
            "<quickly>.<bad>",
        ],
        "help": [
            '"Half {fruit.a} with a friend tastes better than a whole one," said {hero.his} {adult}. {Hero} '
            "[nodded|listened] <quickly>.",
            '{Hero} remembered what {hero.his} {adult} [always|often] said: "What you share gets bigger."',
        ],
        "solve": [
            '<So> {hero} cut the {fruit} in two. "Half is for you, {friend}," {hero.he} <said>.<good>',
            "{Hero} gave {friend} the bigger half of the {fruit}. {Friend} <grinned> <quickly>, and <soon> "
            "{friend.he} brought a [whole |]basket of <food>.<good>",
        ],
    },
    "noise in the dark": {
        "wish": [
            "<Day>, {hero} <wanted> to sleep all alone {place.at} for the [first|very first] time. <But> as soon "
            "as it was dark, something scratched {spot}.",
            "{Hero} lay awake. Something {spot} went scratch, scratch, scratch.<bad>",
        ],
        "try": [
            "{Hero.he} hid under the [blanket|pillow|quilt] and <felt> <scared>. Was it a "
            "[ghost|monster|robber|witch]? Was it <big.a> {beast}?<bad>",
            '"Who is there?" <asked> {hero}. [Nobody|No one] answered, and {hero.he} became <scared>.<bad>',
        ],
        "help": [
            '{Hero.his} {adult} [lit|brought] a lamp. "Shall we look together?" {adult.he} '
            "[asked|wondered|inquired] <quickly>.",
            "{Hero} took <nice.a> lantern and thought <quickly> of {hero.his} {adult}, who always said: "
            '"[Look|Take a closer look] at what you fear."',
        ],
        "solve": [
            "They <searched> {spot}, and there sat <little.a> {beast}, just as <scared> as {hero}.<good> {Hero} "
            "gave {bs.him} some <food>.",
            "The light fell {spot}. It was only <little.a> {beast} with <find.a>!<good> After that, {bs.he} "
            "visited {hero} every [night|evening|week].",
        ],
    },
    "rained-off picnic": {
        "wish": [
            "<Day>, {hero} and <a_friend> packed <food>, <fruit.p> and <taste> {food}. They <wanted> to have a "
            "picnic {place:wild.at}.<scene>",
            '"Let us have a picnic {place:wild.at}," <said> <a_friend>. {Hero} [packed|brought] {food}, <food> and '
            "{fruit.a}.<scene>",
        ],
        "try": [
            "<But> <then> it began to rain. Everything got [wet|soaked], even {hero.s} {wc} {wear}.<bad>",
            "Then a thunderstorm came, and {friend} was <scared>. Raindrops fell into the {food}.<bad>",
        ],
        "help": [
            '<meets> "Come in, there is room for {number}," <the_helper> {helper.says}.<thank>',
            '{Hero} had <nice.a> idea. "We can [hide|sit] {spot}," {hero.he} <said>, "and eat there."',
        ],
        "solve": [
            "<So> they had their picnic in the dry and shared the {food}, while the rain [drummed|danced|pattered] "
            "outside. {Friend} told a story about <topic>.<good>",
            "They ate the <taste> {food} and played {game}. <Soon>, a rainbow stood over the {place}.<good>",
        ],
    },
    "fallen bird": {
        "wish": [
            "<Day>, {hero} <went> to the {place:wild}.<scene> Under <big.a> {tree} lay a baby bird that had fallen "
            "out of its nest.",
            "<Day>, {hero} heard a peep {place:wild.at}. There, at the foot of <big.a> {tree}, sat a [tiny|baby] "
            "bird with <colour> feathers.<bad>",
        ],
        "try": [
            "{Hero} tried to climb the {tree}, but the branches were too [high|thin|slippery].<bad>",
            "{Hero.he} offered it some <food> and <fruit.a>, but the bird only [shivered|trembled|peeped].<bad>",
        ],
        "help": [
            '<meets><tells> "We need {tool.a}," {hs.he} <said> <quickly>.<thank>',
            '{Hero} ran to {hero.his} friend {friend}, who owned {tool.a}. "Hurry!" <cried> {hero}, and {friend} '
            "came <quickly>.",
        ],
        "solve": [
            "With the {tool} they lifted the [bird|little one] up into the {tree}. Its mother <chirped> "
            "<quickly>.<good>",
            "They made a bed of {stuff}, and the {tool} carried it up into the {tree}. Now the bird was safe.<good>",
        ],
    },
    "seed": {
        "wish": [
            'In {season}, {hero.s} {adult} gave {hero.him} a tiny seed. "[One day|Some day] it will be {plant.a}," '
            "{adult.he} said. {Hero} planted it {place:wild.at}.<scene>",
            "<Day>, {hero} <found> a seed in {hero.his} {wear}. {Hero.he} <wanted> to grow <big.a> {plant} and "
            "planted it {place:wild.at}.<scene>",
        ],
        "try": [
            "{Number} days went by and nothing grew. {Hero} watered the seed, [sang|talked|read] to it and <felt> "
            "<sad>.<bad>",
            '"When will my {plant} [come|grow]?" <asked> {hero} every <daypart>. The earth stayed <colour> and '
            "bare.<bad>",
        ],
        "help": [
            '<meets> "{Plant.a} needs sun, water and [time|patience]," <the_helper> {helper.says}.<thank>',
            '<meets><problem><tells> "You must wait," {hs.he} <said> <quickly>.',
        ],
        "solve": [
            "{Hero} waited <quickly>. <Soon>, there was <big.a>, <nice> {plant}, and <everybody> {place.at} got a "
            "[slice|piece] of it.<good>",
            "And <soon>, a green tip came out of the ground. By the end of the year the {plant} was <big> and "
            "<big>.<good>",
        ],
    },
    "broken thing": {
        "wish": [
            '<Day>, <a_friend> lent {hero} <nice.a> {colour} {thing}. "You may {thing.do} it {place.at}," '
            '{friend.he} <said>, "but be careful."<scene>',
            "{Hero.s} friend {friend} owned <nice.a> {colour} {thing}. <Day>, {hero} was allowed to {thing.do} it "
            "{place.at}.<scene>",
        ],
        "try": [
            "<But> {hero} [fell|stumbled|slipped], and the {thing} broke into {number} pieces. {Hero.he} hid them "
            "{spot}.<bad>",
            "[Crack|Snap|Crash]! The {colour} {thing} was broken. {Hero} quickly hid it {spot}.<bad>",
        ],
        "help": [
            '"The truth is heavy only until you say it," {hero.his} {adult} <said> <quickly>. <So> {hero} <went> '
            "to {friend} and told {friend.him} [everything|the truth].",
            'For a whole <daypart> {hero} <felt> <sad>. <Then>, {hero.he} <went> to {friend}. "I broke your '
            '{thing}," {hero.he} <said>. "I am sorry."',
        ],
        "solve": [
            '"We can mend it with {tool.a} and some {stuff}," <said> {friend}. Together they took the {thing} from '
            "its hiding place and repaired it.<good>",
            "{Friend} was cross at first, but then {friend.he} <grinned> <quickly>. They fixed the {colour} "
            "{thing} with {stuff}.<good>",
        ],
    },
    "race": {
        "wish": [
            "<Day>, there was a race {place:wild.at}. The prize was <nice.a> {colour} {thing}. {Hero} <wanted> to "
            "win it, and so did <a_friend>.<scene>",
            '"Who [runs|is] fastest from the {tree} to the {place:wild}?" <asked> <a_friend>. The winner would get '
            "{colour.a} {thing}. {Hero} was <scared> but <happy>.<scene>",
        ],
        "try": [
            "{Hero} and {friend} <went> past <number> <big> trees. <Then>, {friend} [tripped|stumbled] over "
            "<find.a> and hurt {friend.his} [knee|ankle|foot|elbow].<bad>",
            "{Hero} was in front when {friend} [fell|slipped] beside <big.a> {tree} and <cried> <quickly>.<bad>",
        ],
        "help": [
            "{Hero} thought of the {colour} {thing}, then of {hero.his} friend. {Hero.he} [turned round|stopped] "
            "<quickly> and wrapped {hero.his} {wear} around the [knee|ankle|foot|elbow].",
            '"[Run on|Do not wait]!" {friend} <said>. <But> {hero} <went> back and gave {friend.him} <fruit.a> and '
            "{hero.his} arm.",
        ],
        "solve": [
            "They crossed the line together, <tired> but <happy>. The {thing} was for both: {hero} {thing.did} it "
            "in the morning, {friend} in the evening.<good>",
            'Somebody else was first. But {friend} gave {hero} <nice.a> medal of {stuff}. "You are the real '
            'winner," {friend.he} <said> <quickly>.<good>',
        ],
    },
    "birthday present": {
        "wish": [
            "<Day>, it was almost {friend.s} birthday. {Hero} <wanted> to give {friend.him} <nice.a> {thing}, but "
            "{hero.he} had only <number> coins and <find.a>.<bad>",
            "<A_friend> would be {number} years old [tomorrow|next week|next month|on Sunday|on Friday]. {Hero} "
            "dreamed of a present: {colour.a} {thing}.<scene>",
        ],
        "try": [
            "{Hero} <searched> {spot2} and {spot3}, but found nothing {colour}. There was only some {stuff} and "
            "<tool.a>.<bad>",
            "In the shop {place.at} {thing.a} was much too [dear|expensive]. {Hero} <went> away <quickly>.<bad>",
        ],
        "help": [
            '"You could make it out of {stuff}," the {worker} from the {worker.shop} <said> <quickly>, and {ws.he} '
            "gave {hero} <colour.a> box of <find.p>.",
            "<meets> There was plenty of {stuff}. Together they worked until late, and {hero} painted {pattern} on it.",
        ],
        "solve": [
            'On the birthday, {friend} opened the box, and there was {colour.a} {thing} made of {stuff}. "It is '
            'the best present of all," {friend} <said>.<good>',
            "{Friend} unwrapped the {thing} of {stuff}, and {friend.his} eyes <bright>. {Friend.he} {thing.did} it "
            "{place.at} all day.<good>",
        ],
    },
    "cake": {
        "wish": [
            "<Day>, {hero} <wanted> to bake <taste.a> {fruit} cake for {hero.his} {adult}. There was flour, "
            "butter, <number> eggs and <food>.<scene>",
            '"Today I will bake a cake with {fruit.p}," <said> {hero}, and put on {wc.a} {wear}. It would be '
            "<taste> and <taste>.<scene>",
        ],
        "try": [
            "<But> there was not a single {fruit} in the [house|kitchen]. {Hero} <searched> {spot2} and <found> "
            "only <food>.<bad>",
            "<But> the basket of {fruit.p} was empty, except for <insect.a> and <find.a>.<bad>",
        ],
        "help": [
            '<meets> "There are {fruit.p} {place.at}," {hs.he} <said> <quickly>. "Take {number} of them."<thank>',
            '<A_friend> [came|looked] in at the window. "I know where {fruit.p} are: {place.at}!" {friend.he} '
            "<said> <quickly>. They <went> there <quickly>.",
        ],
        "solve": [
            'With {fruit.p} from the {place} the cake was <taste>, <taste> and <big>. "You are a real baker," said '
            "{hero.his} {adult}.<good>",
            "{Hero} came back with a [bowl|bucket|bag] full of {fruit.p} and stirred <quickly>. <Soon>, {hero.his} "
            "{adult} ate {number} pieces of {fruit} cake.<good>",
        ],
    },
    "lost in the woods": {
        "wish": [
            "<Day>, {hero} followed <colour.a> {insect} deep into the woods. {Hero.he} <wanted> to know where it "
            "lived. Behind <big.a> {tree} the path was gone.<bad>",
            "{Hero} was looking for {fruit.p} {place:wild.at} and forgot the time.<scene> When it got dark, "
            "{hero.he} did not know the way home.<bad>",
        ],
        "try": [
            "{Hero.he} <went> left, then right, and came back to the same {tree} with <number> <bird.p> in it.<bad>",
            "Every {tree} looked <big> and <weather>. {Hero.he} called {number} times, but only <bird.a> "
            "answered.<bad>",
        ],
        "help": [
            '<meets><problem><tells> "Follow the {flower.p}," {hs.he} <said> <quickly>. "They grow as far as the '
            '{place}."<thank>',
            '<Then>, {hero} remembered what {hero.his} {adult} had told {hero.him}: "Where the {flower.p} grow, '
            'the {place} is near."',
        ],
        "solve": [
            "{Hero} <went> from {flower} to {flower} until {hero.he} <saw> the {place}. There stood {hero.his} "
            "{adult} with <colour.a> lantern.<good>",
            "And [really|indeed|sure enough|behold], behind the last {flower} lay the {place}, and the way home "
            "was <nice> and easy.<good>",
        ],
    },
    "music lesson": {
        "wish": [
            '<Day>, {hero} heard {music.a} {place.at}.<scene> "I want to play the {music} too," {hero.he} <said> '
            "<quickly>.",
            "{Hero.his} {adult} kept <nice.a> old {music} {spot}. <Day>, {hero} was allowed to try it "
            "{place.at}.<scene>",
        ],
        "try": [
            "<But> the {music} sounded like <animal.a> with a cold. Even the <bird.p> [fled|flew away].<bad>",
            "{Hero} practised for {number} days, and still every <insect> {place.at} covered its ears.<bad>",
        ],
        "help": [
            '<meets> "Play <quickly>, and only {number} notes a day," <the_helper> {helper.says}.<thank>',
            '"I played worse than that," said {hero.his} {adult} <quickly>. "Begin with the song about {song}."',
        ],
        "solve": [
            "{Hero} practised <quickly>. <Soon>, {hero.he} played the song about {song} on the {music}, and all "
            "the <animal.p> danced.<good>",
            "In the evening {hero} played the {music} {place.at}. {Number} <bird.p> and one <good_folk> <worker> "
            "listened and clapped.<good>",
        ],
    },
    "treasure map": {
        "wish": [
            "<Day>, {hero} and <a_friend> <found> a map {spot}. A cross showed <big.a> {tree} {place:wild.at}. "
            '"There must be a treasure!" <cried> {friend} <quickly>.',
            "{Hero} <found> <colour.a> bottle {spot}. In it was a map with a cross: <big.a> {tree} "
            "{place:wild.at}. {Hero.he} <went> to show it to <a_friend>.",
        ],
        "try": [
            "They <went> there with {tool.a} and dug under the {tree}.<scene> <But> there was only <find.a> and "
            "<big.a> stone.<bad>",
            "Under the {tree} they <searched> for <number> hours and found nothing but <find.p>.<bad>",
        ],
        "help": [
            '{Friend} turned the map round. "We held it upside down," {friend.he} <said> <quickly>. "It is '
            '{number} steps to the other side!"',
            '<meets> "Try {number} steps to the [north|south|east|west]," <the_helper> {helper.says}.<thank>',
        ],
        "solve": [
            "{Number} steps from the {tree} the {tool} hit a box. It held <find.p>, <find.a> and {colour.a} "
            "{thing}. {Friend} and {hero} shared it all.<good>",
            "There it was, {number} steps away: a chest with {colour.a} {thing} and <nice> <find.p>. {Hero} "
            "{thing.did} it first, and then {friend} did.<good>",
        ],
    },
    "sand castle": {
        "wish": [
            "<Day>, {hero} and <a_friend> built <big.a> castle of sand {place:wild.at}. It had <number> towers and "
            "was covered with <find.p>.<scene>",
            '"Let us build <big.a> castle {place:wild.at}," <said> <a_friend>. They worked with {tool.a}, and '
            "{hero} put <colour.a> <flower> on each tower.<scene>",
        ],
        "try": [
            "<Then>, {beast.a} came and sat right on it. The castle was [flat|gone].<bad>",
            "<Then>, {beast.a} <went> right through the gate, and {number} towers fell down.<bad>",
        ],
        "help": [
            '"I did not see it," the {beast} said, and {bs.he} <felt> <sad>. {Friend} was cross, but {hero} '
            '<said>, "We can build it again, with you."',
            'The {beast} hung {bs.his} head. "I only <wanted> to play {game}," {bs.he} <said> <quickly>. {Hero} '
            "and {friend} looked at each other and <grinned> <quickly>.",
        ],
        "solve": [
            "So the three of them built a castle that was twice as <big>. The {beast} decorated it with <find.p>, "
            "and {bs.he} was the king of it.<good>",
            "With the {beast} they built <number> new towers and played {game} until the evening. {Friend} called "
            "{bs.him} the best builder {place.at}.<good>",
        ],
    },
    "stuck cart": {
        "wish": [
            "<Day>, {hero} <saw> the {worker} {place:wild.at}. {Ws.his} {vehicle}, full of {worker.goods}, was "
            "stuck in the mud.<scene>",
            "<Day>, the {worker} <wanted> to bring {worker.goods} to the {place:wild}, but the {vehicle} sank into "
            "a [ditch|puddle|hole].<bad>",
        ],
        "try": [
            "{Hero} <pulled> the {vehicle} <quickly>. It did not move, and {hero.his} {wear} turned <colour> with "
            "mud.<bad>",
            '"One, two, three!" <cried> {hero}, and they <pulled> it <quickly>. The {vehicle} only sank deeper.<bad>',
        ],
        "help": [
            "<A_friend> came along with {tool.a}, and behind {friend.him} <number> <animal.p> who <wanted> to help.",
            '"Wait, I will fetch {tool.a} and {friend}," <said> {hero}, and {hero.he} <went> off <quickly>.',
        ],
        "solve": [
            "With the {tool} and all together they got the {vehicle} out. The {worker} gave {hero} some of the "
            "{worker.goods} to say [thanks|thank you].<good>",
            "{Friend} used the {tool}, {hero} <pulled>, and out came the {vehicle}. The {worker} took them along "
            "to the {place}, sitting on the {worker.goods}.<good>",
        ],
    },
    "quarrel": {
        "wish": [
            "<Day>, {hero} and <a_friend> were {place:wild.at}.<scene> {Hero} <wanted> to play {game}, but "
            "{friend} <wanted> to {thing.do} the {thing}.",
            "<Day>, {hero} <wanted> to {thing.do} the {colour} {thing} {place:wild.at}, and <a_friend> wanted it "
            "at the same [time|moment]. It belonged to both of them.",
        ],
        "try": [
            '"You [never|do not] listen to me," <said> {hero} <quickly>. "Neither do you!" {friend} <cried>, and '
            "{friend.he} went away <quickly>.<bad>",
            "They <pulled> and quarrelled until {friend} [left|ran off]. {Hero} played alone with <find.a>, and it "
            "was no fun.<bad>",
        ],
        "help": [
            '"Who says sorry first is the [braver|stronger|wiser] one," {hero.his} {adult} <said> <quickly>.',
            '<meets><problem><tells> "A friend is worth more than any {thing}," {hs.he} <said> <quickly>.',
        ],
        "solve": [
            '{Hero} took <taste> {food} and <went> to {friend}. "I am sorry," both said at once. First they played '
            "{game}, then they {thing.did} the {thing}.<good>",
            '{Hero} knocked at {friend.s} door with <nice.a> {flower}. "Sorry," {hero.he} <said>. "You may '
            '{thing.do} the {thing} first."<good>',
        ],
    },
    "sick friend": {
        "wish": [
            "<Day>, <a_friend> was ill and had to stay in bed. {Hero} <wanted> to cheer {friend.him} up with "
            "<taste> {food} from the {place}.<scene>",
            '"{Friend} has a cold," {hero.s} {adult} <said>. {Hero} decided <quickly> to bring {friend.him} {food} '
            "and {flower.p} from the {place}.<scene>",
        ],
        "try": [
            "On the way {hero} [stumbled|slipped] over <find.a>, and all the {food} fell into the mud.<bad>",
            "<But> <then> <big.a> goose ate up all the {food}, and {hero.his} [bag|basket] was empty.<bad>",
        ],
        "help": [
            '<meets><problem><tells> "Then bring {friend} a story," {hs.he} <said> <quickly>. "I know one about '
            '{song}."<thank>',
            '{Hero} thought <quickly>. "I still have my voice," {hero.he} <said>. "I can sing about {song}."',
        ],
        "solve": [
            "<So> {hero} sat next to {friend.s} <furniture> and told {friend.him} all about {song}. {Friend} "
            "<grinned> <quickly> and forgot the cold.<good>",
            "{Friend} listened to the tale about {song} with shining eyes. After <number> days {friend.he} was "
            "[well|healthy] and played {game} again.<good>",
        ],
    },
    "runaway hat": {
        "wish": [
            "<Day>, {hero} wore {hero.his} <nice> {wc} {wear} {place:wild.at} for the first time.<scene> A strong "
            "wind came up.",
            "{Hero} was proud of {hero.his} new {wc} {wear} with <pattern> on it. <Day>, {hero.he} <went> to the "
            "{place:wild}.<scene>",
        ],
        "try": [
            "[Whoosh|Swish]! The wind took the {wear} and blew it over <big.a> {tree}. {Hero} <went> after it "
            "<quickly>.<bad>",
            "A <breeze> tore the {wear} away. It sailed past {place.see} and was gone.<bad>",
        ],
        "help": [
            '<meets> "Something {wc} landed {spot}," <the_helper> {helper.says}.<thank>',
            '<A_friend> [came|ran] up <quickly>. "I <saw> something {wc} {spot}," {friend.he} <said> <quickly>.',
        ],
        "solve": [
            "And [really|indeed|sure enough|behold], {spot} lay the {wc} {wear}. Inside slept {number} baby "
            "<animal.p>! {Hero} let them have it until the evening.<good>",
            "{Hero} <found> the {wear} {spot}. {Hero.he} tied it on with {stuff} and never lost it again.<good>",
        ],
    },
    "learning to swim": {
        "wish": [
            "<Day>, all the others [swam|splashed] in the water {place:water.at}.<scene> Only {hero} could not "
            "swim. {Hero.he} <wanted> to reach <colour.a> boat {number} strokes away.",
            "{Hero} <wanted> to learn to swim before the end of {season}. <A_friend> could already do it. <Day>, "
            "they <went> to the {place:water}.<scene>",
        ],
        "try": [
            "The water was <weather>, and {hero} swallowed some of it. {Hero.he} coughed and <felt> <scared>.<bad>",
            "{Hero} put one [foot|toe] in and jumped back. {Hero.he} <felt> <scared> and hid {spot}.<bad>",
        ],
        "help": [
            '<meets> "Lie on your back and count to {number}," {hs.he} <said> <quickly>.<thank>',
            '{Friend} held {hero} <quickly>. "Think of <dream>," {friend.he} <said>, "and count to {number}."',
        ],
        "solve": [
            "{Hero} counted to {number}, and the water carried {hero.him}. <Soon>, {hero.he} swam like "
            "<animal.a>.<good>",
            '"One, two, ..." When {hero} came to {number}, {hero.he} was swimming! <Everybody> {place.at} clapped '
            "<quickly>.<good>",
        ],
    },
    "footprints": {
        "wish": [
            "<Day>, {hero} <saw> strange footprints {place:wild.at}. They were <big> and looked like {pattern}. "
            "{Hero} <wanted> to know who had made them.<scene>",
            '"Look at these footprints!" <cried> <a_friend>. They were <big>, led to the {place:wild}, and beside '
            "each lay <find.a>.<scene>",
        ],
        "try": [
            "{Hero} followed them past {place.see} and <number> <big> trees. Then they stopped.<bad>",
            "The tracks led <quickly> around <big.a> {tree} and back again. {Hero} <felt> <scared>.<bad>",
        ],
        "help": [
            "<Then>, {hero} heard someone giggle {spot}. {Hero.he} <went> closer on tiptoe.",
            '<meets> "The one you seek is hiding {spot}," <the_helper> {helper.says}.<thank>',
        ],
        "solve": [
            "And who sat {spot}? <Little.a> {beast} in <big> boots of {stuff}! {Bs.he} only wanted somebody to "
            "play {game} with.<good>",
            "{Spot} {hero} <found> {beast.a} with {stuff} tied to {bs.his} feet. They laughed, and {bs.he} gave "
            "{hero} <nice.a> <find>.<good>",
        ],
    },
    "magic pebble": {
        "wish": [
            '<Day>, {hero} <found> <colour.a>, <nice> {find} {place:wild.at}. "I can grant you {number} wishes," '
            "it said.<scene>",
            "<Day>, {hero} helped <little.a> {beast} {place:wild.at}. To say thanks, {bs.he} gave {hero.him} a "
            "magic {find}.<scene>",
        ],
        "try": [
            "First {hero} wished for <noun.a>, then for <number> <find.p>. <But> there was nobody to share them "
            "with.<bad>",
            "{Hero} wished for <big> <tool.p> and <taste> <food>. <Then>, {hero.he} wished for <noun.a>, but it "
            "all made {hero.him} <sad>.<bad>",
        ],
        "help": [
            "<A_friend> came by, <tired> and <sad>. {Friend.s} {colour} {thing} was broken. {Hero} held the {find} "
            "and thought <quickly>.",
            '"What [do you|would you] really need?" {hero.his} {adult} [asked|wondered|inquired] <quickly>. {Hero} '
            "thought of <a_friend> and {friend.his} broken {thing}.",
        ],
        "solve": [
            '"My last wish is for {friend}," <said> {hero} <quickly>. The {find} <bright>, and the {thing} was '
            "whole again. {Friend} {thing.did} it {place.at}.<good>",
            "<So> {hero} wished that {friend.s} {thing} would be whole. The {find} <bright> and turned to dust, "
            "but {friend} <grinned> <quickly>.<good>",
        ],
    },
    "grumpy neighbour": {
        "wish": [
            "Next door lived a grumpy old {worker}. <Day>, {hero.s} {colour} {thing} [flew|fell|landed] over the "
            "fence into {ws.his} garden.<bad>",
            "Everybody was <scared> of the old {worker} {place.at}. <Day>, {hero} lost {hero.his} {colour} {thing} "
            "behind {ws.his} [fence|hedge|wall].<bad>",
        ],
        "try": [
            "{Hero} <went> to the gate and ran away {number} times. {Hero.he} <felt> <scared>.<bad>",
            '"[Go away|No noise here]!" the {worker} shouted. {Hero} hid {spot} and <felt> <scared>.<bad>',
        ],
        "help": [
            '"Perhaps {ws.he} is only lonely," {hero.his} {adult} <said> <quickly>. "Bring {ws.him} {food}."',
            '<Then>, {hero} <saw> the {worker} {worker.task}, all alone. "May I help you?" {hero} <asked>, and '
            "held out some {food}.",
        ],
        "solve": [
            "The {worker} tasted the {food} and smiled. {Ws.he} gave back the {colour} {thing}, and {hero} came to "
            "help with {worker.task} every week.<good>",
            '"Nobody has brought me {food} for {number} years," the {worker} said. {Hero} got {hero.his} {thing} '
            "back, and <good_folk.a> friend as well.<good>",
        ],
    },
    "stage fright": {
        "wish": [
            "<Day>, there was a big show {place:town.at}. {Hero} was to sing about {song}, and <a_friend> would "
            "play the {music}.<scene>",
            "{Hero} and <a_friend> had practised a song about {song} for {number} weeks. <Day>, they were to show "
            "it {place:town.at}.<scene>",
        ],
        "try": [
            "<But> when {hero} <saw> all the people, {hero.he} became <scared>. {Hero.he} hid {spot}.<bad>",
            "Behind the curtain {hero} <felt> <scared>. {Hero.his} {wear} shook like <flower.a> in the wind.<bad>",
        ],
        "help": [
            '"Look only at me and my {music}," {friend} <said> <quickly>.',
            '{Friend} gave {hero.him} <nice.a> {find}. "Hold it tight," {friend.he} <said> <quickly>. "It helps me '
            'too."',
        ],
        "solve": [
            "The {music} began, and {hero} sang about {song}, first <quickly>, then loudly. <Everybody> {place.at} "
            "<cheered>.<good>",
            "{Hero} looked at {friend} and sang. At the end <number> <flower.p> and <find.a> flew onto the "
            "stage.<good>",
        ],
    },
    "untidy room": {
        "wish": [
            "<Day>, {hero} <wanted> to {thing.do} {hero.his} {colour} {thing} {place.at}. <But> {hero.his} room "
            "was full of <find.p>, <fruit.p> and <tool.p>.<bad>",
            '"Tidy your room before you go to the {place}," {hero.his} {adult} <said>. {Hero} <wanted> to '
            "{thing.do} {hero.his} {colour} {thing} there.<bad>",
        ],
        "try": [
            "{Hero.he} <searched> {spot2} and {spot3}. Out came <number> <find.p>, <wear.a> and <taste> <food>, "
            "but no {thing}.<bad>",
            "{Hero} pushed everything {spot2}. Then the <furniture> fell over, and it was worse than before.<bad>",
        ],
        "help": [
            '<A_friend> came in. "Let us make a game of it," {friend.he} <said> <quickly>. "Whoever finds {number} '
            '<find.p> wins."',
            '<Then>, {hero} had <nice.a> idea. "I will pretend to be <good_folk.a> <worker>," {hero.he} <said>, '
            "and began <quickly>.",
        ],
        "solve": [
            "<Soon>, the floor <bright>. And {spot} lay the {colour} {thing}! {Hero} {thing.did} it {place.at}.<good>",
            "When everything was tidy, the {colour} {thing} turned up {spot}. {Hero} <went> off to the {place} "
            "with it.<good>",
        ],
    },
    "fib": {
        "wish": [
            '<Day>, {hero} <wanted> to seem important. "{Beast.a} lives {place.at}, and I tamed {bs.him}," '
            "{hero.he} <said> to <a_friend>. It was not true.",
            '"I own {colour.a} {thing} and {number} <find.p>," {hero} <said> to <a_friend> {place.at}. It was a '
            "fib.<scene>",
        ],
        "try": [
            '"Show me!" {friend} <cried>. {Hero} <went> red and looked at {hero.his} {wear}.<bad>',
            "All the others <wanted> to see it too. {Hero} invented one story after another, about <dream> and "
            "<dream>.<bad>",
        ],
        "help": [
            '"A fib grows like {plant.a}," {hero.his} {adult} <said> <quickly>. "Pull it out while it is small."',
            '<meets><problem><tells> "Say it the way it is," {hs.he} <said> <quickly>.',
        ],
        "solve": [
            '"I made it up," <said> {hero} <quickly>. {Friend} <grinned> <quickly>. "Your stories are <nice>," '
            '{friend.he} <said> <quickly>. "Tell me another one about {song}!"<good>',
            "{Hero} told {friend} the truth. {Friend} was <surprised>, but then they played {game} and laughed "
            "about it.<good>",
        ],
    },
    "broken bridge": {
        "wish": [
            "<Day>, {hero} <wanted> to visit <a_friend>, who lived on the other side of the [stream|brook|creek]. "
            "{Hero.he} brought {friend.him} <taste> {food}.<scene>",
            "{Hero} and <a_friend> <wanted> to meet {place.at} to play {game}. Between them was only a little "
            "bridge.<scene>",
        ],
        "try": [
            "<But> a storm had broken the bridge. {Hero} stood on one side, {friend} on the other, and both felt "
            "<sad>.<bad>",
            "<But> the bridge had been washed away. {Hero} threw <find.a> across and <felt> <sad>.<bad>",
        ],
        "help": [
            '<meets> "I have {tool.a} and plenty of {stuff}," {hs.he} <said> <quickly>.<thank>',
            '"We need <big.a> {tree} trunk, {tool.a} and {stuff}!" {friend} <cried>. Both of them began <quickly>.',
        ],
        "solve": [
            "With the {tool} and the {stuff} they built a new bridge with <number> steps. {Hero} and {friend} met "
            "in the middle and <grinned> <quickly>.<good>",
            "<Soon>, a bridge of {stuff} hung there, and {hero} <went> across. {Friend} called it the <nice> "
            "bridge of {hero}.<good>",
        ],
    },
    "stray kitten": {
        "wish": [
            "<Day>, {hero} <found> <little.a> kitten {spot}. It had {colour.a} collar and was <tired>. {Hero} "
            "<wanted> to keep it.<scene>",
            "<Day>, <little.a> kitten with {colour.a} collar followed {hero} home from the {place}.<scene>",
        ],
        "try": [
            "<But> the kitten would not eat <food> or <food>. It sat next to the <furniture> and looked <sad>.<bad>",
            "{Hero} played with <find.a> and {stuff}, but the kitten only meowed and <felt> <sad>.<bad>",
        ],
        "help": [
            '"Somebody misses it," {hero.his} {adult} <said> <quickly>. <So> {hero} painted {number} notes with '
            "{pattern} around the edge.",
            "{Hero} read the {colour} collar. The {worker.shop} was written on it! {Hero.he} <went> there <quickly>.",
        ],
        "solve": [
            'The {worker} cried with joy when {ws.he} <saw> the kitten. "Come and visit us {place.at}," {ws.he} '
            "said, and gave {hero} {worker.goods}.<good>",
            "It belonged to the {worker} {place.at}. {Hero} was allowed to play with it every <daypart>, and "
            "{ws.he} made {hero.him} <taste> <food>.<good>",
        ],
    },
    "letter": {
        "wish": [
            "<Day>, {hero} wrote a letter to <a_friend>, who had moved away. It was about {song}, and {pattern} "
            "were painted around the edge.<scene>",
            "{Hero} missed <a_friend>, who was far away {place.at}. <So> {hero.he} wrote {friend.him} a letter on "
            "{colour} paper.<scene>",
        ],
        "try": [
            "{Number} weeks went by, and no answer came. {Hero} <searched> {spot2} and {spot3} for the post.<bad>",
            "Every <daypart> {hero} <went> to the letter box. There was nothing in it but <find.a> and "
            "<insect.a>.<bad>",
        ],
        "help": [
            'Then the {worker} [came|called]. "Did you lose this?" {ws.he} [asked|wondered|inquired] <quickly>. It '
            "was {hero.his} own letter. There was no stamp on it!",
            '"Did you put a stamp on it?" {hero.his} {adult} [asked|wondered|inquired] <quickly>. {Hero} had '
            "forgotten all about that.",
        ],
        "solve": [
            "With <nice.a> stamp the letter went off. After {number} days {friend} answered and sent <find.a> and "
            "<taste> <food> from the {place}.<good>",
            "This time {hero} put on <number> stamps. And {friend} did not write back: {friend.he} came in person "
            "and stayed for {number} days!<good>",
        ],
    },
    "giant vegetable": {
        "wish": [
            "In {season}, <big.a> {plant} grew {place:wild.at}. {Hero} <wanted> to bring it to the fair and win "
            "{colour.a} {thing}.<scene>",
            "{Hero.s} {plant} {place:wild.at} had become <big> and <big>. <Day>, {hero.he} <wanted> to bring it "
            "home.<scene>",
        ],
        "try": [
            "{Hero} <pulled>, and {hero.his} {adult} <pulled>, but the {plant} was too heavy.<bad>",
            "{Hero.he} <pulled> the {plant} {number} times. Only <insect.a> came out.<bad>",
        ],
        "help": [
            '<meets> "What about my {vehicle}?" {hs.he} <asked> <quickly>.<thank>',
            "<A_friend> brought {tool.a} and {vehicle.a}. Then <number> <animal.p> came to help.",
        ],
        "solve": [
            "The {plant} rolled home on the {vehicle}. They made <number> bowls of soup from it, and <everybody> "
            "{place.at} got one.<good>",
            "On the {vehicle} the {plant} travelled through the whole village. {Hero} got <nice.a> ribbon, and all "
            "shared <taste> {plant} pie.<good>",
        ],
    },
    "star night": {
        "wish": [
            '<Day>, {hero.s} {adult} said, "Tonight there will be falling stars." {Hero} <wanted> to see {number} '
            "of them {place:wild.at}.<scene>",
            "{Hero} and <a_friend> <wanted> to stay awake and count falling stars {place:wild.at}. They brought "
            "<food> and {colour.a} blanket.<scene>",
        ],
        "try": [
            "<But> the sky was <sky>, and no star was to be seen. {Hero} was <tired> and yawned {number} times.<bad>",
            "Clouds came up, as <big> as <dream>. {Hero} waited <quickly> and <felt> <sad>.<bad>",
        ],
        "help": [
            '<meets> "The wind will turn at midnight," <the_helper> {helper.says}.<thank>',
            '"Let me tell you about {song} while we wait," {hero.his} {adult} <said> <quickly>.',
        ],
        "solve": [
            "<Then>, the clouds parted. One, two, {number} stars fell over the {place}! {Hero} wished for "
            "<noun.a>.<good>",
            "At midnight a golden star fell right behind the {place}. {Hero} wished <quickly> and told nobody what "
            "it was.<good>",
        ],
    },
    "trading": {
        "wish": [
            "<Day>, {hero} <went> to the {place:town} with nothing but {find.a}. {Hero.he} dreamed of {colour.a} "
            "{thing}.<scene>",
            '"For my {find} I will get {colour.a} {thing}," <said> {hero} <quickly>, and {hero.he} <went> to the '
            "{place:town}.<scene>",
        ],
        "try": [
            'Nobody wanted {find.a}. "Bring me {fruit.p}," said the {worker}, "and I will think about it."<bad>',
            "The {worker} had {colour.a} {thing} next to {ws.his} {worker.goods}. <But> {ws.he} asked for <big.a> "
            "basket of {fruit.p}.<bad>",
        ],
        "help": [
            "{Beast.a} liked the {find} and gave {hero} {flower.p} for it. <A_friend> liked the {flower.p} and "
            "gave {hero.him} {number} {fruit.p}.",
            "<So> {hero} gave <a_friend> the {find} and got {tool.a}. With the {tool} {hero.he} picked {number} "
            "{fruit.p}.",
        ],
        "solve": [
            "The {worker} took the {fruit.p} and <grinned> <quickly>. Now the {colour} {thing} belonged to {hero}, "
            "and {hero.he} {thing.did} it <quickly>.<good>",
            "For the {fruit.p} {hero} got the {colour} {thing} from the {worker}. All that had come from one "
            "{find}!<good>",
        ],
    },
    "tree house": {
        "wish": [
            "<Day>, {hero} and <a_friend> <wanted> to build a house in <big.a> {tree} {place:wild.at}. It should "
            "have <number> windows and {colour.a} roof.<scene>",
            '"I wish we had a tree house," <a_friend> <said>. {Hero} knew <big.a> {tree} {place:wild.at}, just '
            "right for it.<scene>",
        ],
        "try": [
            "They nailed and tied, but the floor of {stuff} broke, and {friend} landed in <flower.p>.<bad>",
            "They carried {stuff} up the {tree}. Then <gentle.a> <breeze> threw it all down again.<bad>",
        ],
        "help": [
            '<meets> "Without {tool.a} you will get nowhere," <the_helper> {helper.says}. "Here, take mine."<thank>',
            '{Hero.his} {adult} <grinned> <quickly>. "I built one when I was small," {adult.he} <said>, and '
            "brought {tool.a}.",
        ],
        "solve": [
            "With the {tool} it held. <Soon>, {hero} and {friend} sat in the {tree}, ate <taste> <food> and played "
            "{game}.<good>",
            "Now the floor was strong. They painted {pattern} on the walls, and {number} <bird.p> moved in under "
            "the roof.<good>",
        ],
    },
    "silent bell": {
        "wish": [
            "<Day>, the big bell {place:town.at} did not ring, and everybody overslept. {Hero} <wanted> to find "
            "out why.<scene>",
            '"The bell {place:town.at} is silent," said the {worker}, and {ws.he} <felt> <sad>. {Hero} <wanted> to '
            "look into it.<scene>",
        ],
        "try": [
            "{Hero} climbed up {number} steps and <pulled> the rope. There was only <colour.a> cloud of dust.<bad>",
            "Up in the tower {hero.he} <searched> {spot2} and <found> <find.a> and <number> <insect.p>.<bad>",
        ],
        "help": [
            "<Then>, {hero.he} <saw> it: {beast.a} had built a nest of {stuff} inside the bell. {Bs.he} looked "
            "<scared>.",
            'A voice came from inside the bell. "Please do not ring," {beast.a} begged. {Bs.he} lay in a bed of '
            "{stuff}.",
        ],
        "solve": [
            "{Hero} made {bs.him} a new bed of {stuff} {spot}. Then the bell rang {number} times.<good>",
            "<So> {hero} carried the {beast} home and gave {bs.him} {wc.a} {wear} to sleep in. At noon the bell "
            "{place.at} rang again.<good>",
        ],
    },
    "cold scarecrow": {
        "wish": [
            "On <weather.a> <daypart> in {season}, {hero} <saw> a scarecrow {place:wild.at}. It had <nice.a> face "
            "but no coat.<scene>",
            '"Poor scarecrow," <said> {hero} {place:wild.at}. It was made of {stuff}, and it was freezing.<scene>',
        ],
        "try": [
            "{Hero} gave it <flower.p> and <taste> <food>, but that did not keep it warm.<bad>",
            "{Hero} <searched> {spot2} for an old coat and found only <find.a> and <wear.a> full of holes.<bad>",
        ],
        "help": [
            '<meets> "I could sew something," {hs.he} <said> <quickly>, "out of {wc} cloth with {pattern} on '
            'it."<thank>',
            '{Hero.his} {adult} took {tool.a} and {wc} wool. "We will make it <nice.a> {wear}," {adult.he} <said> '
            "<quickly>.",
        ],
        "solve": [
            "<Soon>, the scarecrow wore {wc.a} {wear}. When {hero} waved, it seemed to wave back, and {number} "
            "<bird.p> sat down on its arms.<good>",
            "The {wc} {wear} fitted. From then on the scarecrow {place.at} <bright> from afar and kept <number> "
            "<bird.p> company.<good>",
        ],
    },
    "hiccups": {
        "wish": [
            "<Day>, {hero} ate too much {food} and got the hiccups. Hic! {Hero.he} had <wanted> to play {game} "
            "with <a_friend> {place.at}.<bad>",
            '"Hic!" said {hero} {place.at}. It did not stop. <A_friend> <grinned> <quickly>.<scene>',
        ],
        "try": [
            "{Hero.he} drank {number} cups of water and stood on {hero.his} head next to the <furniture>. Hic!<bad>",
            "{Hero} held {hero.his} breath, ate <fruit.a> and thought of <dream>. Hic, hic!<bad>",
        ],
        "help": [
            '<meets> "Say the names of {number} <animal.p> backwards," <the_helper> {helper.says}.<thank>',
            '{Friend} hid {spot}. Suddenly {friend.he} jumped out in <colour.a> <wear> and shouted, "Boo!"',
        ],
        "solve": [
            "{Hero} was so <surprised> that the hiccups were gone. Then they played {game}. But what was that? "
            '"Hic!" said {friend}.<good>',
            'And the hiccups stopped. "Never again so much {food}," <said> {hero} <quickly>.<good>',
        ],
    },
    "rainbow": {
        "wish": [
            '<Day>, {hero} <saw> a rainbow over the {place:wild}. "At its end there is <noun.a>," <a_friend> '
            "<said>. They <wanted> to find it.<scene>",
            "After the rain, a rainbow stood over the {place:wild}. {Hero} <wanted> to touch the {colour} "
            "stripe.<scene>",
        ],
        "try": [
            "They <went> past {place2:wild.see} to the {place2}, but the rainbow moved on.<bad>",
            "When {hero} came to the {place2:wild}, the rainbow was just as far away as before.<bad>",
        ],
        "help": [
            '<meets> "Nobody can catch a rainbow," the {helper} {helper.says}, "but you can take its colours '
            'home."<thank>',
            '{Friend} pointed at a puddle {place2.at}. "Look, the {colour} stripe is in there!" {friend.he} <said> '
            "<quickly>.",
        ],
        "solve": [
            "<So> {hero} picked <colour> {flower.p}, <colour> <find.p> and something {colour} {place2.at}, and "
            "made a rainbow out of them.<good>",
            "At home {hero} painted a rainbow over the <furniture>, with <big.a> {colour} stripe. It never "
            "[faded|went away].<good>",
        ],
    },
    "hungry visitor": {
        "wish": [
            "<Day>, someone knocked at {hero.s} door. It was <little.a> {beast}, <tired> and hungry. {Bs.he} asked "
            "for {food}.<scene>",
            "<Day>, {hero} sat down {place.at} to eat <taste> {food}. There stood <little.a> {beast}, and {bs.he} "
            "looked <sad>.",
        ],
        "try": [
            "{Hero} had only one bowl of {food} and was hungry too. {Hero.he} hid it {spot}.<bad>",
            '"There is not enough," <said> {hero} <quickly>. The {beast} <went> out into the <weather> night.<bad>',
        ],
        "help": [
            "<But> the {food} did not taste good any more. {Hero} called the {beast} back <quickly>.",
            '{Hero} thought of {hero.his} {adult}, who never sent anybody away. "Come in!" {hero.he} <cried>, and '
            "fetched the {food}.",
        ],
        "solve": [
            "They shared the {food}, spoon by spoon. In the morning the {beast} was gone, but {spot} stood "
            '<nice.a> {colour} {thing}. "For {hero}," said a note.<good>',
            "Together they ate {food} until they were full. To say thanks, the {beast} gave {hero} {colour.a} "
            "{thing}, and {bs.he} {thing.did} it with {hero.him}.<good>",
        ],
    },
    "loose tooth": {
        "wish": [
            "<Day>, {hero} had a wobbly tooth. {Hero.he} <wanted> to show it to <a_friend> {place.at}.<scene>",
            '{Hero.s} first tooth was loose. "For a tooth you get <nice.a> {find}," <a_friend> <said>.<scene>',
        ],
        "try": [
            "{Hero} bit into {fruit.a} and ate <taste> {food}, but the tooth would not come out.<bad>",
            "{Hero} <pulled> it {number} times and tied {stuff} to it. The tooth stayed where it was.<bad>",
        ],
        "help": [
            '<meets> "Forget about it and play {game}," <the_helper> {helper.says}.<thank>',
            '"It will come out by itself," {hero.his} {adult} <said> <quickly>. "Go and play {game}."',
        ],
        "solve": [
            "While they played {game}, {hero} laughed, and out fell the tooth. Next morning <nice.a> {find} lay "
            "{spot}.<good>",
            "And <soon>, the tooth was lying in the {food}. {Hero} put it {spot} and <found> {find.a} there in the "
            "morning.<good>",
        ],
    },
    "butterfly": {
        "wish": [
            "<Day>, {hero} <saw> {colour.a} butterfly on {flower.a} {place:wild.at}. {Hero.he} <wanted> to have it "
            "for {hero.his} room.<scene>",
            "The most <nice> butterfly of all lived {place:wild.at}. It was {colour}. <Day>, {hero} took {tool.a} "
            "and <wanted> to catch it.<scene>",
        ],
        "try": [
            "{Hero} <went> after it, past {place.see}, and caught it under a glass. <But> there it sat and looked "
            "<sad>.<bad>",
            "{Hero.he} caught it and put it into a box of {stuff}. The {colour} wings stopped moving.<bad>",
        ],
        "help": [
            '"Would you like to live in a box?" <a_friend> <asked>. {Hero} thought about it <quickly>.',
            '<meets> "A butterfly needs the sky," <the_helper> {helper.says}.',
        ],
        "solve": [
            "{Hero} opened the lid, and the {colour} butterfly flew up. It sat down on {hero.his} {wear} for a "
            "moment and <bright>.<good>",
            "<So> {hero} let it go and drew a picture of it, {colour} with {pattern}. It hung above {hero.his} "
            "<furniture>.<good>",
        ],
    },
    "dry garden": {
        "wish": [
            "That {season} it did not rain for {number} weeks. {Hero} <wanted> to save the {flower.p} "
            "{place:wild.at}.<bad>",
            "{Hero.s} {adult} loved the {flower.p} {place:wild.at}. <But> it was so dry that they hung their "
            "heads.<scene>",
        ],
        "try": [
            "{Hero} carried water in <find.a> and in {hero.his} {wear}. It was never enough.<bad>",
            "The well was empty. {Hero} let down {tool.a} and pulled up <find.a>.<bad>",
        ],
        "help": [
            "<meets> {Hs.he} knew a spring between two stones and lent {hero} {vehicle.a}.<thank>",
            '<A_friend> called {number} others. "We will make a long row from the lake to here," {friend.he} '
            '<said>, "and pass on [buckets|jugs|bowls|cups] of water."',
        ],
        "solve": [
            "They brought water the whole day. <Soon>, the {flower.p} lifted their heads, <colour> and <colour>.<good>",
            "Every {flower} got a drop. Then it began to rain, and {hero} danced {place.at} in {hero.his} "
            "{wear}.<good>",
        ],
    },
    "puppet show": {
        "wish": [
            "<Day>, {hero} and <a_friend> <wanted> to put on a puppet show {place:town.at}. It was about "
            "{song}.<scene>",
            '"Come to our puppet show {place:town.at}!" <cried> <a_friend>. {Hero} had sewn the puppets from '
            "{stuff}.<scene>",
        ],
        "try": [
            "<But> {number} minutes before, the king was gone. {Hero} <searched> {spot2} and {spot3}.<bad>",
            "Then the {beast} [next door|from the yard] ran off with the king, and {friend} <felt> <sad>.<bad>",
        ],
        "help": [
            '<meets> "Take {plant.a} as the king," <the_helper> {helper.says}.<thank>',
            '{Hero} had <nice.a> idea. "We will make a king out of {plant.a}," {hero.he} <said>, "with a crown of '
            '{stuff}."',
        ],
        "solve": [
            "King {Plant} was the star of the show about {song}. <Everybody> {place.at} laughed and clapped.<good>",
            "Nobody had ever seen {plant.a} dance with <dream>. {Friend} bowed <quickly>, and <everybody> "
            "{place.at} <cheered>.<good>",
        ],
    },
    "foggy harbour": {
        "wish": [
            "<Day>, thick fog lay over the water. {Hero.s} {adult} was still out there in {colour.a} boat. {Hero} "
            "waited {place:water.at}.<bad>",
            "{Hero} waited for <a_friend>, who was coming across the water in {colour.a} boat. <But> the fog was "
            "thick, and {hero.he} could hardly see the {place:water}.<bad>",
        ],
        "try": [
            "{Hero.he} waved {hero.his} {wc} {wear}, but nobody could see it.<bad>",
            "{Hero.he} lit {number} candles, but <gentle.a> <breeze> blew them out.<bad>",
        ],
        "help": [
            '<meets><tells> "What cannot be seen can be heard," {hs.he} <said> <quickly>. "Take my {music}!"<thank>',
            "<Then>, {hero} remembered the old {music}, which lay {spot}. {Hero.he} fetched it <quickly>.",
        ],
        "solve": [
            "{Hero} played the {music} as loudly as {hero.he} could. And out of the fog came the {colour} boat!<good>",
            "The {music} sounded far over the water. <Soon>, the {colour} boat reached the shore, and {hero} got "
            "<big.a> hug.<good>",
        ],
    },
    "snowed in": {
        "wish": [
            "One {season} morning the snow was as high as the <furniture>. {Hero} <wanted> to bring <a_friend> "
            "<taste> {food} {place:wild.at}.<scene>",
            "It had snowed for {number} days. {Hero} looked out and <saw> only white. <A_friend> was alone "
            "{place:wild.at}, without {food}.<bad>",
        ],
        "try": [
            "{Hero} <went> {number} steps and sank in up to {hero.his} <nose>.<bad>",
            "{Hero.he} dug with <tool.a>, but <weather.a> wind filled the path again.<bad>",
        ],
        "help": [
            '{Hero.his} {adult} had <nice.a> idea. "Take this {vehicle}," {adult.he} <said>, "and put {stuff} '
            'under the wheels."',
            "<meets> {Hs.he} tied {stuff} to {hero.s} feet, so that {hero.he} could walk on the snow.<thank>",
        ],
        "solve": [
            "<So> {hero} reached the {place} and shared the {food} with {friend}. They built <big.a> snowman with "
            "{wc.a} {wear}.<good>",
            'With {stuff} under {hero.him}, {hero} got to the {place}. "{Food}!" {friend} <cheered>, and they ate '
            "everything <quickly>.<good>",
        ],
    },
    "borrowed book": {
        "wish": [
            "<Day>, {hero} borrowed {colour.a} book about {song} from the {worker}. {Hero.he} read it "
            "{place.at}.<scene>",
            'The {worker} lent {hero} <nice.a> book about {song}. "Bring it back in {number} days," {ws.he} '
            "said.<scene>",
        ],
        "try": [
            "<But> the book fell into the <taste> {food}, and <colour.a> spot was left on the cover.<bad>",
            "When the time was up, {hero} could not find it. {Hero.he} <searched> {spot2} and {spot3}.<bad>",
        ],
        "help": [
            '"Go and tell the {worker}," {hero.his} {adult} <said> <quickly>. "{Ws.he} will not bite."',
            '<A_friend> went along. "I will hold your hand," {friend.he} <said>, and they <went> to the {worker.shop}.',
        ],
        "solve": [
            'The {worker} only smiled. "You can help me with {worker.task}," {ws.he} <said>. And {hero} got a new '
            "book, about <topic>.<good>",
            "At the {worker.shop}, {hero} told the truth. {Ws.he} [nodded|laughed] and let {hero.him} help with "
            "{worker.task} for {number} days.<good>",
        ],
    },
    "boat trip": {
        "wish": [
            "<Day>, {hero} and <a_friend> built a raft out of {stuff}. They <wanted> to sail to the "
            "{place:water}.<scene>",
            "{Hero} had {colour.a} boat of {stuff}. <Day>, <a_friend> came along, and they sailed off to the "
            "{place:water}.<scene>",
        ],
        "try": [
            "<But> there was a hole in it! Water came in, and {friend} bailed it out with {friend.his} {wear}.<bad>",
            "<Then>, the raft hit <big.a> {tree} root and began to sink. {Friend} <felt> <scared>.<bad>",
        ],
        "help": [
            '<meets> "Hold on to my {tool}!" <the_helper> {helper.says}.<thank>',
            "{Hero} looked for something to stop the water. {Hero.he} took <taste> <food> and {fruit.a} and pushed "
            "them in <quickly>.",
        ],
        "solve": [
            "Wet and <tired>, they reached the {place}. They dried their clothes, played {game} and ate "
            "{fruit.p}.<good>",
            "It worked! They landed safely and called the place {Hero} Island. {Friend} drew a map of it with "
            "<number> <animal.p>.<good>",
        ],
    },
    "twin thing": {
        "wish": [
            '<Day>, {hero} <found> {colour.a} {thing} {spot}. {Hero.he} had always wanted one. "Now it is mine," '
            "{hero.he} <said>.<scene>",
            "{Spot} {hero} <found> {colour.a} {thing}. {Hero.he} took it to the {place} and {thing.did} it.<scene>",
        ],
        "try": [
            "But then <a_friend> came, <sad> and <tired>. {Friend.he} was looking for something {colour}.<bad>",
            '"Have you seen {thing.a}?" <a_friend> <asked>. {Hero} hid it in {hero.his} {wear} and <felt> <sad>.<bad>',
        ],
        "help": [
            "{Hero} looked at {friend}, and then at the {colour} {thing}. {Hero.he} thought about it <quickly>.",
            '{Hero.his} {adult} looked at {hero.him} for a long time. "Whose {thing} is it?" {adult.he} '
            "[asked|wondered|inquired] <quickly>.",
        ],
        "solve": [
            '"Here is your {thing}, {friend}," <said> {hero} <quickly>. {Friend} <grinned> <quickly>. From then on '
            "they {thing.did} it together, {place.at}.<good>",
            '{Hero} gave {friend} the {colour} {thing}. <Soon>, {friend} came back with <nice.a> {find}. "This is '
            'for you," {friend.he} <said> <quickly>.<good>',
        ],
    },
}
