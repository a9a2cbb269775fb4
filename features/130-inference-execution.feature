@inference
Feature: A generation arrives token by token, right to the last character

  @T36
  Scenario: Tokens are streamed as they are generated
    Given a running rbee
    And a worker with the model "{steady}"
    And the fleet's events are followed
    Then the worker's state is "idle"
    When task "story" asks "{steady}" for 200 tokens
    And task "story" has its first token
    Then the first token was read before the last one was generated
    And the worker's state is "busy"
    When task "story" has ended
    Then its token events came in order, with an index that begins at 0 and never repeats
    And its token events came over time, not in one piece
    And it ended with one event "done" that has 200 tokens, a usage and timings
    And the worker's state is "idle"
    And the fleet's events showed the worker idle, then busy, then idle

  @I04
  Scenario: The same seed gives the same text, and neighbours in a batch do not touch it
    Given a running rbee
    And a worker with the model "{f16 demo}" and 4 slots
    When the same request with seed 7 at temperature 0.9 runs twice alone
    Then both texts are the same
    And seed 8 gives another text
    When a request at temperature 0 runs alone
    And it runs again beside 3 requests with their own seeds, temperatures, penalties and biases
    Then all 4 shared a batch
    And its text is the same, up to what llama.cpp's kernels make of a batch

  @I05
  Scenario: Characters and stop strings that are split over tokens come out whole
    Given a running rbee
    And a worker with the model "demo"
    When the model has to write each of these texts, and to stop before a string
      | text                           | stop    | arrives                        |
      | Grüße, 蜂 und 🐝 für Zoë — ok  | @never@ | Grüße, 蜂 und 🐝 für Zoë — ok  |
      | one two#END# three             | #END#   | one two                        |
      | honey🐝🐝 and wax              | 🐝🐝    | honey                          |
      | #EN #END #END!#END# tail       | #END#   | #EN #END #END!                 |
    Then every stop string and every character beyond ASCII takes more than one token
    And no event holds a broken character
    And exactly the text before the stop string arrived each time
    And each generation ended because of "stop", with the tokens it generated counted
