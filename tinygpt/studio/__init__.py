"""The web app over `tinygpt.inspect` and the records of runs: what the pages ask, answered from this machine alone.

app.py      routes and who may use them; static/ holds the pages
answers.py  runs by name, functions of `tinygpt.inspect` called in one thread of low priority, replies kept
jobs.py     trainings as processes of their own, which outlive the page and the studio
run.py      `tinygpt studio`: an address, a browser, and the end
"""
