@security @shared
Feature: Nobody gets in without a key, and nobody further than the key goes

  @S01
  Scenario Outline: Without a key every address but health is refused
    Given a running rbee with a demo worker that is only read
    When every address of <daemon> is asked without a key
    Then all of them but health answered 401 with the code "INVALID_API_KEY"
    And health answered 200
    When every address of <daemon> is asked with a wrong key
    Then all of them but health answered 401 with the code "INVALID_API_KEY"
    And health answered 200
    And an address that does not exist is answered 401 too

    Examples:
      | daemon     |
      | the queen  |
      | the hive   |
      | the worker |

  @S09
  Scenario: A key for inference opens no administrative address
    Given a running rbee with a demo worker that is only read
    When every administrative address of the queen is asked with the key for inference
    Then all of them answered 403 with the code "ROLE_FORBIDDEN"
    And nothing was shut down by that
    When every address for inference is asked with the key for inference
    Then none of them answered 401 or 403
    When every address of the hive is asked with the key for inference
    Then all of them but health answered 401 with the code "INVALID_API_KEY"
    When every address of the worker is asked with the key for inference
    Then all of them but health answered 401 with the code "INVALID_API_KEY"
