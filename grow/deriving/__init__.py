"""Families derived from the stock class alone: rows from shapes, facts from growth, each with its proof"""
