"""Whole datasets: one Parquet row for each image, and reports that are read from these rows.

| module | one job |
|---|---|
| ``explain_dataset`` | the public function: checks the job and starts the runner |
| ``sources`` | what holds the images: folders, tables, archives, Python objects |
| ``remote`` | what is behind an address such as ``s3://bucket/folder`` |
| ``hub`` | datasets on the Hub: the split, at a commit |
| ``rows`` | the schema, and the row of one image |
| ``parts`` | the folder of Parquet files: its job, its keys, its next file |
| ``runner`` | the job: explains what has no row yet, in this process, and writes the rows |
| ``ray_runner`` | the same in processes of Ray, which are replaced if they die |
| ``ray_session`` | connections to Ray: a session on this machine, or a cluster |
| ``report`` | ``DatasetReport``: rows, and statistics over them |
| ``report_row`` | ``DatasetRow``: one of these rows, its overlay and its explanation |
| ``html`` | a report as one HTML page |
| ``push`` | the rows in a dataset repo on the Hub |
| ``exports`` | a report in FiftyOne and Spotlight |
| ``clusters`` | groups of images of a class whose maps are alike |
"""
