"""The web app over ``cam_hub``: a page, and endpoints for programs.

| module | one job |
|---|---|
| ``options`` | every setting: its flag, its variable, its default |
| ``settings`` | what can be configured, and the limits of the public door |
| ``request`` | from what a visitor sent to a checked request |
| ``photos`` | the photo of a request, uploaded or at a URL |
| ``photo_urls``, ``public_network`` | photos fetched from public addresses, and from no others |
| ``lent_gpu`` | where a GPU is lent call by call (ZeroGPU) |
| ``explainer`` | request in, explanation out, with the models that stay loaded |
| ``workspace`` | folders for the files of a request, gone after a while |
| ``file_budget`` | how much of the disk they take, with uploads |
| ``uploads`` | files on their way in |
| ``artifacts`` | an explanation as files: overlays, maps, manifest, archive |
| ``look`` | how a result is looked at: all that changes without the model |
| ``screen`` | pictures for the screen, and which values their colours stand for |
| ``viewer``, ``map_strip``, ``prediction_list`` | the large picture, the maps, the predictions |
| ``take_away``, ``links`` | files, the code, and links that open the same view |
| ``views`` | an explanation as values for components |
| ``layer_table`` | a model's layers, and what each word stands for |
| ``layer_views`` | that table as HTML |
| ``snippets`` | the code that gives the same result |
| ``problems`` | errors as messages that people can read, with codes for programs |
| ``blocks`` | guards every request, and logs how it ended |
| ``hosts`` | under which hosts the app answers, and whose pages may ask |
| ``doors`` | the guard before every request: open routes, bounded bodies |
| ``failures`` | what plain HTTP gets where no endpoint is reached |
| ``agents`` | answers over MCP |
| ``health`` | what the log says |
| ``style`` | theme, style sheet, keyboard |
| ``endpoint`` | ``/explain`` for programs |
| ``predict_endpoint`` | ``/predict`` for programs |
| ``layers_endpoint`` | ``/layers`` for programs |
| ``compare_request``, ``compare_endpoint`` | ``/compare`` for programs |
| ``compare_files`` | a comparison as files |
| ``compare_panel``, ``compare_views``, ``compare_handlers``, ``compare_events`` | its tab |
| ``search_endpoint`` | ``/search`` for programs |
| ``describe_endpoint`` | ``/describe`` for programs |
| ``model_field`` | the field for the model's ID, which proposes models as one types |
| ``search_handlers`` | what is proposed |
| ``class_field``, ``class_handlers``, ``labels`` | the fields for classes: all labels, searched |
| ``photo_field``, ``examples`` | the photo: uploaded, at an address, or one that is offered |
| ``facts_view``, ``facts_handlers`` | what is known of a model, said below that field |
| ``visitor`` | who sent a request: their token, and what they hear while it is answered |
| ``account`` | signing in with Hugging Face |
| ``controls``, ``results_panel``, ``layers_panel`` | the columns and tabs of the page |
| ``opening``, ``first_sight`` | what the page opens with |
| ``handlers``, ``look_handlers``, ``layer_handlers`` | what is answered when something is used |
| ``presenter``, ``kept`` | a result as values for the page, and what is remembered of it |
| ``events``, ``layer_events`` | which event calls which handler |
| ``page`` | ``create_app``: all of it together |
| ``card`` | the Space's card, with what the Hub is told there |
| ``staging`` | which files a Space needs |
| ``publish`` | ``python -m space.publish``: from here to the Hub |
"""
